"""What the web pages of all measurements share: their looks, pictures that lie inside them,
plots."""
