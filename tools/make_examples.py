"""Makes ``examples/``: three generated scenes with questions and answers, and three photographs,
made small.

The photographs come out of the scikit-image wheel (``pip download --no-deps
scikit-image==0.25.2``): its path is the argument.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import click
from PIL import Image

from demo_questions.__main__ import question_row, write_rows
from train_demo.scenes import make_scene, questions, render, scene_rng

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png")


@click.command(help=__doc__)
@click.argument("wheel", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(wheel: Path) -> None:
    """Write the six pictures and ``questions.jsonl``."""
    EXAMPLES.mkdir(exist_ok=True)
    asked = []
    for number in (1, 2, 3):  # one, two and three objects, from the split that no figure uses
        rng = scene_rng("example", number)
        scene = make_scene(rng, count=number)
        name = f"scene-{number}.png"
        render(scene).save(EXAMPLES / name)
        asked += [question_row(name, question) for question in questions(scene, rng)]
    write_rows(EXAMPLES / "questions.jsonl", asked)
    with zipfile.ZipFile(wheel) as archive:
        for name in PHOTOGRAPHS:
            picture = Image.open(io.BytesIO(archive.read(f"skimage/data/{name}"))).convert("RGB")
            picture.thumbnail((384, 384))
            picture.save((EXAMPLES / name).with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
