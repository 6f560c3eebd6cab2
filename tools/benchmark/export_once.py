"""Exports a checkpoint and prints its steps and its peak memory as JSON lines: CHECKPOINT OUTPUT
BUDGETS."""

import json
import sys
from pathlib import Path

from benchmark.peak import peak_memory
from pocketvlm_export import ExportOptions, export

checkpoint, output, budgets = sys.argv[1:4]
# The tables of what pruning costs in time are FasterVLM's.
options = ExportOptions(
    "fastervlm", budgets=tuple(int(budget) for budget in budgets.split(",")), overwrite=True
)
export(
    checkpoint, Path(output), options, lambda text: print(json.dumps({"step": text}), flush=True)
)
print(json.dumps({"peak_mb": peak_memory()}))
