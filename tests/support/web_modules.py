"""Knows how to run many cases of the web client's modules in one process of Node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

_RUNNER = Path(__file__).parents[1] / "clients" / "run_modules.mjs"
NODE = shutil.which("node")
OLD_PILLOW = int(PIL.__version__.partition(".")[0]) < 13


class Cases:
    """Cases of one process: they are added, run once, and their results are read by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cases: list[dict[str, Any]] = []
        self._given = bytearray()
        self._results: list[Any] | None = None
        self._made = b""

    def add(self, run: str, **case: Any) -> int:
        """Add a case; its number."""
        self._cases.append({"run": run, **case})
        return len(self._cases) - 1

    def file(self, data: bytes) -> list[int]:
        """Bytes that cases read: where they lie."""
        # Floats are read in place, which wants them at a multiple of their size.
        self._given += bytes(-len(self._given) % 8)
        self._given += data
        return [len(self._given) - len(data), len(data)]

    def picture(self, image: Image.Image) -> dict[str, Any]:
        """A picture that cases read, with its own transparency where it has some."""
        data = image.convert("RGBA").tobytes()
        return {"at": self.file(data), "width": image.width, "height": image.height}

    def result(self, number: int) -> Any:
        """What a case gave."""
        if self._results is None:
            self._run()
        assert self._results is not None
        return self._results[number]

    def bytes_of(self, place: list[int]) -> bytes:
        """What a case left as bytes."""
        start, length = place
        return self._made[start : start + length]

    def floats(self, place: list[int]) -> np.ndarray:
        """What a case left as numbers."""
        return np.frombuffer(self.bytes_of(place), np.float32)

    def samples(self, image: dict[str, Any]) -> np.ndarray:
        """A picture that a case left, uint8 (height, width, 3)."""
        rgba = np.frombuffer(self.bytes_of(image["at"]), np.uint8)
        rgba = rgba.reshape(image["height"], image["width"], 4)
        assert (rgba[:, :, 3] == 255).all()
        return rgba[:, :, :3]

    def _run(self) -> None:
        (self._folder / "cases.json").write_text(json.dumps(self._cases))
        (self._folder / "given.bin").write_bytes(self._given)
        assert NODE is not None
        done = subprocess.run(
            [NODE, str(_RUNNER), str(self._folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        self._results = json.loads((self._folder / "results.json").read_text())
        self._made = (self._folder / "made.bin").read_bytes()
