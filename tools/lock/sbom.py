"""``python -m lock.sbom FILE``: everything of requirements.lock as CycloneDX, with hashes and
licences; needs PyPI once.

cyclonedx-py reads the lock file for releases and hashes. Licences are those of `licences`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click

from compare_peers.environments import make_environment
from licences.__main__ import read_licences
from lock import LOCK, ROOT, normal
from pocketvlm.files import replace_file

_CYCLONEDX = "cyclonedx-bom==7.5.0"  # Apache-2.0


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def main(file: Path) -> None:
    """Write it."""
    python = make_environment(ROOT / "build" / "cyclonedx", [_CYCLONEDX], ())
    command = [str(python.with_name("cyclonedx-py")), "requirements", LOCK.name]
    command += ["--pyproject", "pyproject.toml", "--mc-type", "application"]
    command += ["--output-reproducible", "--output-format", "JSON"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    listed = json.loads(done.stdout)
    licences = {one.name: one.licence for one in read_licences()}
    for component in listed["components"]:
        licence = licences[normal(component["name"])]
        component["licenses"] = [{"license": {"name": licence}}]
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(listed, indent=2).encode())
    print(f"{file}: {len(listed['components'])} components")


if __name__ == "__main__":
    main()
