"""Where the other examples find a model to ask, and pictures to ask about."""

import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("POCKETVLM_BUILD", EXAMPLES.parent / "build"))


def demo_folder() -> Path:
    """Return the folder of the demo model, as `make demo` exports it; without it, export it now.

    Any other folder that `pocketvlm export` wrote does as well: put its name in the place of this.
    """
    folder = BUILD / "demo"
    if not (folder / "pocketvlm.json").exists():
        from pocketvlm_export import ExportOptions, export

        print(f"exporting the demo into {folder}, once", file=sys.stderr)
        export("demo", folder, ExportOptions(budgets=(36, 144)))
    return folder
