"""Knows how the commit gets into what is built: a line in ``pocketvlm/cli/commit.txt``.

A build from a clone asks git, as `pocketvlm.cli.release` does. A build from a source archive finds
the file in it. An editable installation gets none, as it moves on with its clone.
"""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = Path("cli", "release.py")


class CommitHook(BuildHookInterface):
    """Adds the file to a wheel or a source archive, where the commit can be had."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build; ``version`` is "editable" or "standard"."""
        if version == "editable":
            return
        package = Path(self.root, "runtime", "pocketvlm")
        module = runpy.run_path(str(package / _MODULE))
        recorded = _MODULE.with_name(module["RECORDED"])
        file = package / recorded
        if not file.exists():
            commit = module["commit_of"](Path(self.root))
            if commit is None:
                return
            self._folder = tempfile.TemporaryDirectory()
            file = Path(self._folder.name) / recorded.name
            file.write_text(f"{commit}\n", encoding="ascii")
        # Added by force in both cases (pyproject.toml leaves it out): the order of files counts.
        inside = Path("runtime/pocketvlm" if self.target_name == "sdist" else "pocketvlm")
        build_data["force_include"][str(file)] = (inside / recorded).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when it is built."""
        if self._folder is not None:
            self._folder.cleanup()
