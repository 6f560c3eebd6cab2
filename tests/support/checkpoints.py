"""Changes to a checkpoint's files, wherever a setting stands in them."""

import json
from pathlib import Path
from typing import Any

# Where transformers looks for an image processor: the nested one first, then the file of its own.
_NESTED, _FILE = "processor_config.json", "preprocessor_config.json"


def edit_json(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Write values into a JSON file of a checkpoint, which is made where there is none."""
    path = folder / name
    stated = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**stated, **changes}))


def edit_pictures(folder: Path, **changes: Any) -> None:
    """Write settings of the image processor into every file that states them."""
    nested = json.loads((folder / _NESTED).read_text()) if (folder / _NESTED).is_file() else {}
    if "image_processor" in nested:
        edit_json(folder, _NESTED, image_processor={**nested["image_processor"], **changes})
    if (folder / _FILE).is_file():
        edit_json(folder, _FILE, **changes)


def nest_pictures(folder: Path, **changes: Any) -> None:
    """Write the image processor as transformers 5 does, inside processor_config.json, with
    ``changes`` that preprocessor_config.json does not have: it is left as a stale file."""
    stated = json.loads((folder / _FILE).read_text())
    edit_json(folder, _NESTED, image_processor={**stated, **changes})
