"""Knows how to run the JavaScript of an artifact's USING.md as pasted, in a page's onnxruntime and
in Node's."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pocketvlm import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.prompts import Prompter

# The second is that of pages; without "/wasm" it is the build that finds its files in Node too.
RUNTIMES = ("onnxruntime-node", "onnxruntime-web")

# What stands around the code: prepare the picture, tokenize the question; put the rows of tiles one
# after another. What was streamed must be what is returned.
_DRIVER = """
import { readFileSync } from "node:fs";
import * as ort from %(runtime)s;
import * as page from %(code)s;
const given = JSON.parse(readFileSync(%(given)s));
ort.env.wasm.numThreads = 1;
const read = given.bytes ? { read: (path) => new Uint8Array(readFileSync(path)) } : {};
const vlm = await page.load(ort, given.folder + "/", { ...read, ...given.graphs });
const answers = [];
for (const { tiles, height, width, ids, budget } of given.asked) {
  const each = [];
  for (const rgba of tiles) each.push(await page.see(vlm, rgba, height, width));
  let [seen = null] = each;
  const features = () => Float32Array.from(each.flatMap((tile) => [...tile.features]));
  if (each.length > 1) seen = { features: features() };
  if (budget) seen = page.fewer(seen, budget);
  const streamed = [];
  const tokens = await page.answer(vlm, seen, ids, { onToken: (id) => void streamed.push(id) });
  if (!streamed.every((id, i) => id === tokens[i]) || streamed.length < tokens.length - 1)
    throw new Error(`streamed ${streamed}, returned ${tokens}`);
  answers.push(tokens);
}
console.log(JSON.stringify(answers));
"""


class ClientError(Exception):
    """A client did not answer; as text it is what it printed."""


class Asked(NamedTuple):
    """A question: about a picture or none, kept in ``budget`` tokens where that is not the
    artifact's own."""

    text: str
    image: Path | None = None
    budget: int | None = None


def answer_with_the_page(
    folder: Path,
    asked: Sequence[Asked],
    modules: Path,
    *,
    runtime: str = RUNTIMES[0],
    in_bytes: bool = False,
    graphs: Mapping[str, str] | None = None,
) -> list[list[int]]:
    """Return the token ids of each answer.

    Where other ids come between the tiles of a picture, or their rows are not simply one after
    another, the page says that its code does not do that: such artifacts are not for this.

    Args:
        folder: the artifact.
        asked: the questions.
        modules: the folder whose node_modules has the ``runtime``.
        runtime: one of `RUNTIMES`.
        in_bytes: give the code bytes, as a page does that keeps files itself, not addresses.
        graphs: other graphs than the default ones, by role as `load` names them.

    Raises:
        ClientError: what the code threw.
    """
    page = (folder / "USING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```javascript\n(.*?)```", page, re.DOTALL)
    given = {
        "folder": str(folder.resolve()),
        "bytes": in_bytes,
        "graphs": dict(graphs or {}),
        "asked": _prepared(folder, asked),
    }
    with tempfile.TemporaryDirectory() as scratch:
        pasted, request = Path(scratch) / "vlm.mjs", Path(scratch) / "given.json"
        pasted.write_text(code, encoding="utf-8")
        request.write_text(json.dumps(given), encoding="utf-8")
        names = {"runtime": runtime, "code": pasted.as_uri(), "given": str(request)}
        done = subprocess.run(
            ["node", "--input-type=module"],
            input=_DRIVER % {name: json.dumps(value) for name, value in names.items()},
            cwd=modules,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ClientError(done.stderr)
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _prepared(folder: Path, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """What a page would have made of each question and its picture."""
    artifact = Artifact.open(folder)
    layout, prompter = open_layout(artifact), Prompter.from_artifact(artifact)
    around = json.loads((folder / "using.json").read_text(encoding="utf-8"))["around"]
    slot = np.array([*around["before"], prompter.image_token_id, *around["after"]], dtype=np.int64)
    questions = []
    for text, image, budget in asked:
        ids = prompter.encode(text, pictures=0 if image is None else 1)
        question: dict[str, Any] = {"tiles": [], "budget": budget}
        if image is not None:
            tiles = np.stack(list(layout.views(open_picture(image))))
            opaque = np.full((*tiles.shape[:3], 1), 255, np.uint8)
            rgba = np.concatenate([tiles, opaque], axis=3).reshape(len(tiles), -1)
            question |= {"height": tiles.shape[1], "width": tiles.shape[2], "tiles": rgba.tolist()}
            ids = prompter.place(ids, [slot])
        questions.append({**question, "ids": ids.tolist()})
    return questions
