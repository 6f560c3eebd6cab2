"""Knows how to run the JavaScript of an artifact's USING.md unchanged, with onnxruntime-web."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketvlm import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.prompts import Prompter

# What a page would do around the code: fetch the files, draw the picture to the size, tokenize the
# question.
_DRIVER = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(%s));
const vlm = await load(given.folder + "/", (path) => new Uint8Array(readFileSync(path)));
const answers = [];
for (const { rgba, ids } of given.asked) answers.push(await answer(vlm, await see(vlm, rgba), ids));
console.log(JSON.stringify(answers));
"""


def answer_with_the_page(
    folder: Path, asked: Sequence[tuple[Path, str]], modules: Path
) -> list[list[int]]:
    """Return the token ids of each answer; ``modules`` is the folder whose node_modules has
    onnxruntime-web."""
    artifact = Artifact.open(folder)
    steps, prompter = open_layout(artifact).steps, Prompter.from_artifact(artifact)
    (code,) = re.findall(r"```javascript\n(.*?)```", (folder / "USING.md").read_text(), re.DOTALL)
    questions = []
    for image, question in asked:
        rgb = steps.resize_and_crop(open_picture(image))
        opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
        rgba = np.concatenate([rgb, opaque], axis=2).ravel().tolist()
        questions.append({"rgba": rgba, "ids": prompter.encode(question, pictures=1).tolist()})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as given:
        json.dump({"folder": str(folder.resolve()), "asked": questions}, given)
        given.flush()
        done = subprocess.run(
            ["node", "--input-type=module"],
            input=code + _DRIVER % json.dumps(given.name),
            cwd=modules,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"the JavaScript of {folder}/USING.md failed:\n{done.stderr}")
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers
