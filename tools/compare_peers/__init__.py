"""Compares time to first token with other runtimes that answer from the same checkpoint."""
