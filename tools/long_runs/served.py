"""Knows how much memory a server and the process that has its model take while thousands of
requests are answered."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from long_runs.filled import Broken
from long_runs.memory import Sample, descriptors, uss
from serve_clients.serving import Served

_CLIENTS = 2
_KNOWN = 8  # pictures
_NO_PICTURE = "data:image/png;base64,bm8gcGljdHVyZQ=="
_BAD = 20  # one request of so many is refused


class Asking:
    """Clients that ask a server, and look at its processes on the way.

    Attributes:
        parent: samples of the process that listens.
        child: those of the one that has the model.
        statuses: how many answers had each HTTP status; 400 is right where the picture is none.
    """

    def __init__(self, served: Served, every: int, note: Callable[[Sample, Sample], None]) -> None:
        self._served, self._every, self._note = served, every, note
        self._random = random.Random(0)
        self._pictures = [_picture(seed) for seed in range(_KNOWN)]
        self._lock, self._done, self._wrong = threading.Lock(), 0, 0
        self.parent: list[Sample] = []
        self.child: list[Sample] = []
        self.statuses: Counter[int] = Counter()

    def run(self, requests: int) -> None:
        """Ask so many questions; raises `Broken` where an answer is none."""
        with ThreadPoolExecutor(_CLIENTS) as clients:
            list(clients.map(lambda _: self._ask(), range(requests)))
        if self._wrong or not self.statuses[200]:
            raise Broken(f"statuses {dict(self.statuses)}")

    def _ask(self) -> None:
        with self._lock:
            body = self._body()
        request = urllib.request.Request(
            f"{self._served.url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                response.read()
                status = response.status
        except urllib.error.HTTPError as error:
            error.read()
            error.close()
            status = error.code
        with self._lock:
            self._done += 1
            self.statuses[status] += 1
            self._wrong += status != (400 if _NO_PICTURE in str(body) else 200)
            if self._done % self._every == 0:
                self._look()

    def _body(self) -> dict[str, Any]:
        draw = self._random
        picture = draw.choice(self._pictures) if draw.random() < 0.7 else _picture(draw.random())
        if draw.random() < 1 / _BAD:
            picture = _NO_PICTURE
        words = " ".join(draw.choices(["how", "many", "red", "circles", "are", "there"], k=5))
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": words},
        ]
        return {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": draw.randint(1, 8),
            "temperature": draw.choice([0, 0.7]),
            "stream": draw.random() < 0.5,
        }

    def _look(self) -> None:
        parent = psutil.Process(self._served.pid)
        child = max(parent.children(recursive=True), key=lambda each: each.memory_info().rss)
        self.parent.append(_sample(parent.pid, self._done))
        self.child.append(_sample(child.pid, self._done))
        self._note(self.parent[-1], self.child[-1])


def _sample(process: int, answers: int) -> Sample:
    """From outside: nobody collects garbage there, and malloc keeps what it has."""
    return Sample(answers, uss(process), 0, descriptors(process))


def _picture(seed: float) -> str:
    """A picture of noise as a data: URI."""
    draw = np.random.default_rng(int(seed * (1 << 30)) if isinstance(seed, float) else seed)
    pixels = draw.integers(0, 256, (*draw.integers(16, 120, 2), 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def ask_server(artifact: Path, log: Path, requests: int, every: int) -> Asking:
    """Serve an artifact and ask it; its samples are written beside ``log`` as they come."""
    with (
        log.with_suffix(".jsonl").open("w", encoding="utf-8") as file,
        Served(artifact, log) as served,
    ):

        def note(*samples: Sample) -> None:
            file.write(f"{json.dumps([vars(sample) for sample in samples])}\n")
            file.flush()

        asking = Asking(served, every, note)
        asking.run(requests)
    return asking
