"""Knows the web page: which files it is made of, where they lie, and what it reads of who serves
it.

The page asks ``site.json`` beside it which back end answers:

| who serves it | ``site.json`` |
|---|---|
| any static host | ``{"back_end": "local", "models": [{"name", "path", "bytes"}], ...}`` |
| `pocketvlm serve` | ``{"back_end": "server", "models": [{"name"}], ...}`` |

A local back end computes in the page and needs the libraries of `pocketvlm.web.libraries`. A server
needs the page's own files alone: `page_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.errors import EngineError

LOCAL, SERVER = "local", "server"
SITE = "site.json"
_PARTS = {".html", ".mjs", ".js", ".css", ".svg"}
_HERE = Path(__file__).parent
# In a wheel beside this module, in a clone (and an editable install of one) where it is written.
_PLACES = (_HERE / "page", _HERE.parents[2] / "clients" / "web")


def page_place() -> Path:
    """Where the page's own files lie, or would lie in an installation that has none."""
    return next((place for place in _PLACES if (place / "index.html").is_file()), _PLACES[0])


def page_folder() -> Path:
    """The folder that the page's own files lie in, and the lock file of its libraries.

    Raises:
        EngineError: this installation has none.
    """
    folder = page_place()
    if not folder.is_dir():
        raise EngineError(
            "this installation has no web page", advice="install pocketvlm again, from a wheel"
        )
    return folder


def page_files() -> dict[str, Path]:
    """{name beside ``index.html``: file} of what the page is made of, libraries and models not
    among them; raises `EngineError` as `page_folder` does."""
    folder = page_folder()
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix in _PARTS and path.is_file()
    }


def site_facts(
    back_end: str, models: Iterable[Mapping[str, Any]], samples: Iterable[str] = ()
) -> dict[str, Any]:
    """What ``site.json`` holds, see the module.

    Args:
        back_end: `LOCAL` or `SERVER`.
        models: what may be asked; the first is chosen when the page opens.
        samples: addresses of pictures to try, relative to the page.
    """
    return {"back_end": back_end, "models": list(models), "samples": list(samples)}
