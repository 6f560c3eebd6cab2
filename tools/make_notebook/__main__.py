"""Knows how ``source.py`` becomes ``examples/pocketvlm.ipynb``, executed: ``PYTHONPATH=tools python
-m make_notebook``.

The script has cells as jupytext and editors know them (``# %%``). Times in the notebook are those
of the machine that runs this, so run it where nothing else runs. Needs the extra [notebook].
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import click
import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
_CELL = "# %%"  # where one begins
_PNG, _JPEG = "image/png", "image/jpeg"
_LARGE = 40_000  # bytes of a PNG, beyond which a photograph in it is better as JPEG
_QUALITY = 80
_MOST_SECONDS = 600  # of a cell


@click.command(help=__doc__)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=EXAMPLES / "pocketvlm.ipynb",
    help="Where the notebook is written.",
)
def main(output: Path) -> None:
    """Read the script, execute its cells, write the notebook."""
    text = (HERE / "source.py").read_text(encoding="utf-8")
    cells = text[text.index(_CELL) :]  # without the module's own docstring
    notebook = jupytext.reads(cells, fmt="py:percent")
    client = NotebookClient(
        notebook,
        timeout=_MOST_SECONDS,
        coalesce_streams=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(EXAMPLES)}},
    )
    client.execute()
    _settle(notebook)
    nbformat.validate(notebook)
    output.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    click.echo(f"{output}: {len(notebook.cells)} cells, {output.stat().st_size / 1e3:.0f} kB")


def _settle(notebook: Any) -> None:
    """Leave out what says nothing of the answers: when and on what it ran, and names of cells that
    are new each time. Large pictures become JPEG."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if len(png := base64.b64decode(data.get(_PNG, ""))) > _LARGE:
                del data[_PNG]
                data[_JPEG] = base64.b64encode(_as_jpeg(png)).decode()


def _as_jpeg(png: bytes) -> bytes:
    written = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(written, "JPEG", quality=_QUALITY)
    return written.getvalue()


if __name__ == "__main__":
    main()
