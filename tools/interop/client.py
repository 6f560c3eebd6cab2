"""Knows how to ask PocketVLM's own client for JavaScript, in a page's onnxruntime and in Node's."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pocketvlm.media.pictures import open_picture

# The second is that of pages; without "/wasm" it is the build that finds its files in Node too.
RUNTIMES = ("onnxruntime-node", "onnxruntime-web")
CLIENT = Path(__file__).parents[2] / "clients" / "web" / "pocketvlm.mjs"

# What was streamed must be what is returned, and every prompt is read from its beginning.
_DRIVER = """
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from %(runtime)s;
const { PocketVLM } = await import(%(client)s);
const given = JSON.parse(readFileSync(%(given)s));
if (ort.env.wasm) ort.env.wasm.numThreads = 1;
const read = (file) => readFileSync(`${given.folder}/${file}`);
const ways = {
  bytes: async (file) => new Uint8Array(read(file)),
  blobs: async (file) => new Blob([read(file)]),
};
const fetchFile = ways[given.files];
const libraries = { Tokenizer, Template };
const options = { ort, libraries, fetchFile, selfTest: true, ...given.graphs };
const vlm = await PocketVLM.load(given.folder, options);
const sampling = { repetition_penalty: 1 }; // the highest logit alone, whatever was published
const bytes = ({ data }) => new Uint8ClampedArray(Buffer.from(data, "base64"));
const answers = [];
for (const { text: prompt, picture, budget } of given.asked) {
  await vlm.forget();
  const pictures = [];
  if (picture) pictures.push(await vlm.see({ ...picture, data: bytes(picture) }));
  const streamed = [], pieces = [];
  const onToken = (id) => streamed.push(id);
  const answer = vlm.answer({ prompt, pictures, sampling, budget: budget ?? undefined, onToken });
  for await (const piece of answer) pieces.push(piece);
  const { tokenIds, text } = await answer.result;
  if (String(streamed) !== String(tokenIds) || pieces.join("") !== text)
    throw new Error(`streamed ${streamed}, returned ${tokenIds}`);
  answers.push(tokenIds);
}
console.log(JSON.stringify(answers));
process.exit(0);
"""


class ClientError(Exception):
    """A client did not answer; as text it is what it printed."""


class Asked(NamedTuple):
    """A question: about a picture or none, kept in ``budget`` tokens where that is not the
    artifact's own."""

    text: str
    image: Path | None = None
    budget: int | None = None


def answer_with_the_client(
    folder: Path,
    asked: Sequence[Asked],
    modules: Path,
    *,
    runtime: str = RUNTIMES[0],
    files: str = "",
    precisions: Mapping[str, str] | None = None,
) -> list[list[int]]:
    """Return the token ids of each answer.

    Args:
        folder: the artifact.
        asked: the questions.
        modules: the folder whose node_modules has the ``runtime``.
        runtime: one of `RUNTIMES`.
        files: give the client ``bytes`` or ``blobs`` of files, as a page does that keeps files
            itself; empty lets it read them.
        precisions: other ones than the default, as ``load`` names them.

    Raises:
        ClientError: what the client threw.
    """
    given = {
        "folder": str(folder.resolve()),
        "files": files,
        "graphs": dict(precisions or {}),
        "asked": [
            {
                "text": question.text,
                "picture": None if question.image is None else _pixels(question.image),
                "budget": question.budget,
            }
            for question in asked
        ],
    }
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch) / "given.json"
        request.write_text(json.dumps(given), encoding="utf-8")
        names = {"runtime": runtime, "client": CLIENT.as_uri(), "given": str(request)}
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


def _pixels(path: Path) -> dict[str, Any]:
    """A picture as a page decodes it, upright RGBA samples."""
    picture: Image.Image = open_picture(path).convert("RGBA")
    data = base64.b64encode(picture.tobytes()).decode()
    return {"data": data, "width": picture.width, "height": picture.height}
