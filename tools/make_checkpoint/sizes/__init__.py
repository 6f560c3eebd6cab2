"""Dimensions of the checkpoints that are written file by file, a module a family."""
