"""Knows how a checkpoint's tower becomes llama.cpp's mmproj file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from compare_peers.llava_mmproj import write_llava_mmproj
from install_llama_cpp import CONVERTER


def write_mmproj(checkpoint: Path, path: Path, kind: str) -> None:
    """Write the tower and projector of a checkpoint; ``kind`` of its matrices is ``f16`` or
    ``q8_0``.

    By llama.cpp's own converter, except what it no longer writes.

    Raises:
        click.ClickException: the converter is not there, or refuses; the message has its last line.
    """
    if json.loads((checkpoint / "config.json").read_text())["model_type"] == "llava":
        write_llava_mmproj(checkpoint, path, kind)
        return
    script = CONVERTER / "convert_hf_to_gguf.py"
    if not script.is_file():
        raise click.ClickException(
            f"llama.cpp's converter is not in {CONVERTER}: run tools/install_llama_cpp.py"
        )
    options = ["--mmproj", "--outtype", kind, "--outfile", str(path)]
    done = subprocess.run(
        [sys.executable, str(script), str(checkpoint), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr.strip() or "?").splitlines()
        raise click.ClickException(f"llama.cpp's converter refuses {checkpoint}: {lines[-1]}")
