"""Knows under which licence each release of requirements.lock comes, and for what it is needed.

``make licences`` writes the table of docs/licences.md. A licence is what a package's own metadata
says: the SPDX expression, else its classifier, else its licence field in a few words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# How licences' names in classifiers and fields are called in SPDX.
_SPDX = {
    "Apache 2.0 License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",  # the classifier does not say which
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_COPYLEFT = re.compile(r"\b(?:A?GPL|LGPL|MPL|EPL|EUPL|CDDL|OSL)\b|GPL-|MPL-", re.IGNORECASE)
# What wheels hold of others besides, as far as it is copyleft: by the files of the Linux wheels.
CARRIED = {
    "av": "FFmpeg (LGPL-3.0-or-later, as it says), x264 and x265 (GPL-2.0-or-later), LAME (LGPL)",
    "numpy": "libgfortran and libquadmath of GCC (GPL-3.0 with the runtime exception, LGPL-2.1)",
    "scipy": "libgfortran and libquadmath of GCC (GPL-3.0 with the runtime exception, LGPL-2.1)",
    "torch": "libgomp of GCC (GPL-3.0 with the runtime exception)",
}
# The extras by who needs them; what comes with none of them only builds.
DEVICE, BUILD = "runtime", "building"
EXTRAS = (
    "video",
    "grammar",
    "llama",
    "serve",
    "measure",
    "cluster",
    "export",
    "test",
    "lint",
    "docs",
)


@dataclass(frozen=True)
class Licence:
    """One release, the licence that it states, and what it comes with (`DEVICE` or extras)."""

    name: str
    version: str
    licence: str
    comes_with: tuple[str, ...]

    @property
    def copyleft(self) -> str:
        """What of it is copyleft, empty where nothing is known to be."""
        own = self.licence if _COPYLEFT.search(self.licence) else ""
        carried = f"its wheel carries {CARRIED[self.name]}" if self.name in CARRIED else ""
        return "; ".join(filter(None, (own, carried)))


def licence_of(name: str) -> str:
    """What an installed package states, raises PackageNotFoundError where it is not installed."""
    stated = metadata(name)
    for expression in stated.get_all("License-Expression") or []:
        return str(expression)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in stated.get_all("Classifier") or []
        if text.startswith("License :: ") and not text.endswith("approved")
    ]
    field = "".join(stated.get_all("License") or []).strip().partition("\n")[0]
    short = field if 0 < len(field) <= 40 and any(map(str.isalpha, field)) else ""
    if classifiers and _SPDX.get(classifiers[0], "") == "BSD" and short.startswith("BSD-"):
        return short  # which of them
    texts = classifiers or [short]
    return " AND ".join(_SPDX.get(text, text) for text in texts)


def needed_for(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """For each of these packages what it comes with, by what installed packages require."""
    within = {part: _closure(part) for part in (DEVICE, *EXTRAS)}
    named = {}
    for name in names:
        parts = tuple(part for part, packages in within.items() if name in packages)
        named[name] = (DEVICE,) if DEVICE in parts else parts or (BUILD,)
    return named


def _closure(part: str) -> set[str]:
    """Packages that `pip install pocketvlm[part]` brings."""
    extra = "" if part == DEVICE else part
    waiting = [("pocketvlm", extra)]
    done: set[tuple[str, str]] = set()
    while waiting:
        if (one := waiting.pop()) in done:
            continue
        done.add(one)
        waiting += _required(*one)
    return {name for name, _ in done}


def _required(name: str, extra: str) -> Sequence[tuple[str, str]]:
    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return []
    needed = [Requirement(text) for text in texts]
    return [
        (canonicalize_name(one.name), inner)
        for one in needed
        if one.marker is None or one.marker.evaluate({"extra": extra})
        for inner in ("", *one.extras)
    ]
