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

# What a page would do around the code: fetch the files, prepare the picture, tokenize the question;
# put the rows of tiles one after another.
_DRIVER = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(%s));
const vlm = await load(given.folder + "/", (path) => new Uint8Array(readFileSync(path)));
const answers = [];
for (const { tiles, height, width, ids } of given.asked) {
  const seen = [];
  for (const rgba of tiles) seen.push(await see(vlm, rgba, height, width));
  const rows = seen.length > 1 ? Float32Array.from(seen.flatMap((tile) => [...tile])) : seen[0];
  answers.push(await answer(vlm, rows, ids));
}
console.log(JSON.stringify(answers));
"""


def answer_with_the_page(
    folder: Path, asked: Sequence[tuple[Path, str]], modules: Path
) -> list[list[int]]:
    """Return the token ids of each answer; ``modules`` is the folder whose node_modules has
    onnxruntime-web.

    Where other ids come between the tiles of a picture, or their rows are not simply one after
    another, the page says that its code does not do that: such artifacts are not for this.
    """
    artifact = Artifact.open(folder)
    layout, prompter = open_layout(artifact), Prompter.from_artifact(artifact)
    page = (folder / "USING.md").read_text()
    code, stated = (
        re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0]
        for language in ("javascript", "json")
    )
    around, token = json.loads(stated)["around"], prompter.image_token_id
    slot = np.array([*around["before"], token, *around["after"]], dtype=np.int64)
    questions = []
    for image, question in asked:
        tiles = layout.views(open_picture(image))
        opaque = np.full((*tiles.shape[:3], 1), 255, np.uint8)
        questions.append(
            {
                "tiles": np.concatenate([tiles, opaque], axis=3).reshape(len(tiles), -1).tolist(),
                "height": tiles.shape[1],
                "width": tiles.shape[2],
                "ids": prompter.place(prompter.encode(question, pictures=1), [slot]).tolist(),
            }
        )
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
