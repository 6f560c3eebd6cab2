"""What the web pages of all measurements share: their looks, embedded pictures, and plots."""
