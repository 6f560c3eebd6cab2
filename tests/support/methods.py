"""Knows which pruning methods select without a question, so that a vision graph alone selects, and
which of those keep tokens as they are."""

from pocketvlm_export.pruning import PRUNERS, find_pruner

BY_PICTURE = [name for name in PRUNERS if "text" not in find_pruner(name).reads]
KEEPING = [name for name in BY_PICTURE if not find_pruner(name).merges]
