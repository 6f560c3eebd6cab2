"""Measures which pruning methods, and which stages inside tower and decoder, are worth their time:
accuracy against the time to first token."""
