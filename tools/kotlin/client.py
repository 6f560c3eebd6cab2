"""Knows the Kotlin client as a process: requests and answers are lines of JSON, pictures files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from kotlin.compiler import HERE, classpath, compiled

_MAIN = "io.pocketvlm.driver.MainKt"
# The process behind the stubs: what is given to NNAPI comes back wrong, a planted wrong device.
_ENGINE = [sys.executable, "-m", "engine_pipe", "--wrong", "nnapi"]


class Refused(Exception):
    """The library refused a request.

    Attributes:
        kind: the class of its exception.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Kotlin:
    """The compiled library in a JVM of its own; ``scratch`` is a folder for pictures."""

    def __init__(self, scratch: Path) -> None:
        java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx1g"]
        java += ["-Djava.awt.headless=true", "-cp", classpath(compiled()), _MAIN]
        self._process = subprocess.Popen(
            [*java, *_ENGINE],
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._scratch = scratch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """What the library answers; raises `Refused`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the JVM ended with {self._process.wait(30)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(answer["kind"], answer["error"])
        return answer

    def picture(self, image: Image.Image) -> dict[str, Any]:
        """An RGB picture as requests name it."""
        path = self._scratch / "picture.rgb"
        path.write_bytes(image.convert("RGB").tobytes())
        return {"file": str(path), "width": image.width, "height": image.height}

    def resized(
        self, image: Image.Image, size: tuple[int, int], resample: str
    ) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3) of a picture resized to ``size`` (width, height)."""
        to = self._scratch / "resized.rgb"
        self.ask("resize", picture=self.picture(image), size=size, filter=resample, to=str(to))
        return np.fromfile(to, np.uint8).reshape(size[1], size[0], 3)

    def from_argb(
        self, pixels: npt.NDArray[np.uint8], orientation: int = 1
    ) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3), upright and on white, of RGBA pixels (height, width, 4)."""
        path, to = self._scratch / "pixels.argb", self._scratch / "upright.rgb"
        path.write_bytes(np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3]]).tobytes())
        height, width = pixels.shape[:2]
        size = {"width": width, "height": height, "orientation": orientation}
        made = self.ask("argb", file=str(path), to=str(to), **size)
        return np.fromfile(to, np.uint8).reshape(made["height"], made["width"], 3)

    def cut(
        self, folder: Path, image: Image.Image
    ) -> tuple[list[npt.NDArray[np.float32]], dict[str, Any]]:
        """``pixel_values`` (3, height, width) of each tile, and what else the layout says."""
        to = self._scratch / "pixels.f32"
        made = self.ask("cut", folder=str(folder), picture=self.picture(image), to=str(to))
        shapes = [(3, height, width) for height, width in made["sizes"]]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(np.fromfile(to, "<f4"), ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)], made

    def load(self, folder: Path, **choice: Any) -> dict[str, Any]:
        """Open an artifact: ``vision``, ``decoder``, ``budget``, ``threads``, ``provider``,
        ``test``."""
        return self.ask("load", folder=str(folder), **choice)

    def see(self, image: Image.Image) -> int:
        """Encode a picture; the number by which further requests name it."""
        return int(self.ask("see", picture=self.picture(image))["seen"])

    def answer(
        self, text: str, seen: int | None = None, *, most: int = 32, **more: Any
    ) -> dict[str, Any]:
        """Answer one question."""
        message = {"role": "user", "text": text, **({} if seen is None else {"seen": seen})}
        return self.ask("answer", messages=[message], most=most, **more)
