"""Measures what the demo answers, with every pruning method, precision and decoder, and writes the
tables."""
