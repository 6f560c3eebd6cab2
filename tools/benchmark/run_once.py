"""Runs a command of `pocketvlm`, and reports the peak memory of its process to standard error."""

import json
import sys

from benchmark.peak import peak_memory
from pocketvlm.cli import main

try:
    main(sys.argv[1:])
finally:
    print(json.dumps({"peak_mb": peak_memory()}), file=sys.stderr)
