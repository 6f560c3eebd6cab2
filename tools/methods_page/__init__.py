"""Writes the tables of docs/methods.md: the field, with published figures and those of the demo."""
