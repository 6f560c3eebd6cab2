"""Knows deployment targets; imports neither the runtime nor the exporter, which turn `TargetError`
into their own.

A target is a TOML file: one flat table whose keys are named as the options of the command line, a
comment above each that gives the reason. Those shipped lie in this folder; a new one is a new file.
"""

from pocketvlm_targets.reading import load_target, target_names
from pocketvlm_targets.target import DECODERS, FORMATS, KEYS, Target, TargetError
from pocketvlm_targets.writing import target_of, write_target

__all__ = [
    "DECODERS",
    "FORMATS",
    "KEYS",
    "Target",
    "TargetError",
    "load_target",
    "target_names",
    "target_of",
    "write_target",
]
