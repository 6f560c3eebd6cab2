"""Trains the demo checkpoint, a small LLaVA that really sees, from nothing."""
