"""Exports a checkpoint and prints the peak memory of doing so, in MB: CHECKPOINT OUTPUT BUDGETS."""

import sys
from pathlib import Path

from benchmark.peak import peak_memory
from pocketvlm_export import ExportOptions, export

checkpoint, output, budgets = sys.argv[1:4]
options = ExportOptions(budgets=tuple(int(budget) for budget in budgets.split(",")), overwrite=True)
export(checkpoint, Path(output), options, lambda text: print(text, file=sys.stderr))
print(peak_memory())
