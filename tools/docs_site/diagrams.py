"""Draws the mermaid diagrams of docs/ for the site, so that a browser runs nothing for them.

``PYTHONPATH=tools python -m docs_site.diagrams MERMAID`` draws those that have no picture yet, by
Chromium and mermaid.min.js (MIT) of the npm package; `make diagrams` fetches that. Pictures are
named after the text of their diagram: one that was changed has none, which a test finds.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from docs_site.hooks import DIAGRAM, DIAGRAMS, picture_of
from pocketvlm.files import replace_file

DOCS = Path(__file__).parents[2] / "docs"
_PAGE = """<!doctype html><meta charset="utf-8"><body><script src="{library}"></script><script>
mermaid.initialize({{
  startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {{htmlLabels: false}},
  deterministicIds: true, fontFamily: "sans-serif",
  themeCSS: ".edgeLabel rect, .labelBkg {{ fill: #fff; opacity: 1 !important; }}",
}});
mermaid.render("diagram", {diagram}).then(({{svg}}) => {{
  const holder = document.createElement("div");
  holder.innerHTML = svg;
  const text = new XMLSerializer().serializeToString(holder.firstChild);
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  document.body.textContent = "svg:" + btoa(bytes) + ":svg";
}});
</script>"""


def diagrams() -> Iterator[str]:
    """Yield the text of every diagram of the docs."""
    for page in sorted(DOCS.glob("*.md")):
        yield from DIAGRAM.findall(page.read_text(encoding="utf-8"))


def drawn(diagram: str, library: Path) -> bytes:
    """The picture of one diagram; ClickException where it cannot be drawn."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(_PAGE.format(library=library.as_uri(), diagram=json.dumps(diagram)))
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--virtual-time-budget=20000", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    if (match := re.search(r"svg:([\w+/=]+):svg", done.stdout)) is None:
        raise click.ClickException(f"mermaid draws nothing of {diagram.splitlines()[0]} ...")
    return base64.b64decode(match[1])


@click.command(help=__doc__)
@click.argument("mermaid", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(mermaid: Path) -> None:
    """Draw what has no picture, and remove pictures of no diagram."""
    (DOCS / DIAGRAMS).mkdir(exist_ok=True)
    names = {picture_of(diagram): diagram for diagram in diagrams()}
    for name, diagram in names.items():
        if not (DOCS / name).exists():
            replace_file(DOCS / name, drawn(diagram, mermaid.resolve()) + b"\n")
    for path in (DOCS / DIAGRAMS).glob("*.svg"):
        if f"{DIAGRAMS}/{path.name}" not in names:
            path.unlink()


if __name__ == "__main__":
    main()
