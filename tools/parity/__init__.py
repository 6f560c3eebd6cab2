"""Knows how often answers of exported artifacts differ from Hugging Face's own classes, beyond the
one prompt and the few pictures of the parity gate."""
