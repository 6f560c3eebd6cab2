"""Measures what the demo checkpoint answers, unpruned and with fewer visual tokens."""
