"""Knows how to ask transformers.js, as it runs in Node and in a page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from interop.client import ClientError
from train_demo.scenes import Question

Dtype = str | Mapping[str, str] | None


class Answers(NamedTuple):
    """What it made of the messages, and the token ids of each answer."""

    prompts: list[str]
    tokens: list[list[int]]


def answer_with_transformers_js(
    folder: Path,
    pairs: Sequence[tuple[Path, Question]],
    modules: Path,
    *,
    page: bool = False,
    dtype: Dtype = None,
) -> Answers:
    """Ask questions, each about one picture.

    Args:
        folder: the artifact.
        pairs: pictures and questions.
        modules: the folder with answer.mjs, whose node_modules has transformers.js.
        page: the build for pages and its WebAssembly, instead of Node's.
        dtype: as `from_pretrained` takes it; None is what config.json says.

    Raises:
        ClientError: what it threw.
    """
    request = {
        "folder": str(folder.resolve()),
        "page": page,
        "dtype": dtype,
        "asked": [
            {"messages": _messages(question), "pixels": _pixels(path)} for path, question in pairs
        ],
    }
    done = subprocess.run(
        ["node", str(modules / "answer.mjs")],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ClientError(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return Answers(result["prompts"], result["answers"])


def _messages(question: Question) -> list[dict[str, object]]:
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": content}]


def _pixels(path: Path) -> dict[str, object]:
    picture = Image.open(path).convert("RGB")
    return {"rgb": list(picture.tobytes()), "width": picture.width, "height": picture.height}
