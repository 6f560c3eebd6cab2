"""Knows how the project writes: its word list is CONTRIBUTING's, its limits are `limits`'."""
