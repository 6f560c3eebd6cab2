"""Chooses among the settings of a model: the fastest to the first token that keeps its accuracy.

``candidates`` are what a folder holds. A `source.Source` times and asks them; ``search`` drops what
breaks limits, then races the others by `betting`'s sequential test; a `tuning.Tuning` says what was
tried, why the rest was ruled out, and what was chosen. Nothing is imported here.
"""
