"""Packages as pip leaves them in a folder of its own: a module, and metadata beside it."""

from collections.abc import Mapping
from pathlib import Path


def write_package(
    folder: Path, name: str, entries: Mapping[str, str], version: str = "1.0", **modules: str
) -> None:
    """Write modules, {name: source}, and the metadata of their distribution into ``folder``, with
    the entry points of ``entries``, {group: lines}."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    if version:
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    text = "\n".join(f"[{group}]\n{lines}" for group, lines in entries.items())
    (metadata / "entry_points.txt").write_text(text)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
