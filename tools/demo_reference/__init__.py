"""The demo checkpoint in Hugging Face's own modules: what the exported folder is compared with."""
