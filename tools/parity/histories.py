"""Does an answer depend on what was asked before? ``PYTHONPATH=tools python -m parity.histories``.

Held-out questions to the demo, each asked of a model that has kept nothing, and again after others:
how many answers and first logits differ, by precision, and where runs are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from page_section import replace_section
from parity.cases import DEFAULT, DEMO, Setting, artifact_of, settings_of
from parity.compare import SAMPLING, FirstLogits
from pocketvlm import VLM
from pocketvlm.files import replace_file
from pocketvlm.limits import NOTHING_KEPT, Limits, SequenceLimits
from pocketvlm_measure.progress import progress
from pocketvlm_measure.table import Table
from train_demo.scenes import Question, question_set

_PATH = click.Path(path_type=Path)
_SETTINGS = ("fp32", "int8", "int4", "int8+int4", "llama.cpp q8_0", "llama.cpp q4_k_m")

Asked = tuple[Image.Image, Question]
Taken = tuple[list[int], npt.NDArray[np.float32]]  # tokens, and what the first was picked from


def another_picture(vlm: VLM, asked: Sequence[Asked], number: int) -> Taken:
    """After a question about another picture."""
    _ask(vlm, asked[(number + 2) % len(asked)])
    return _ask(vlm, asked[number])


def another_question(vlm: VLM, asked: Sequence[Asked], number: int) -> Taken:
    """After another question about the same picture."""
    _ask(vlm, asked[number ^ 1])
    return _ask(vlm, asked[number])


def the_same_again(vlm: VLM, asked: Sequence[Asked], number: int) -> Taken:
    """The second time."""
    _ask(vlm, asked[number])
    return _ask(vlm, asked[number])


def in_conversation(vlm: VLM, asked: Sequence[Asked], number: int) -> Taken:
    """As the second question of a conversation that was answered, all of it given at once."""
    (picture, first), (_, second) = asked[number ^ 1], asked[number]
    user = {"role": "user", "content": [_image(picture), _text(first.text)]}
    reply = vlm.generate(messages=[user], sampling=SAMPLING).text.strip()
    answer = {"role": "assistant", "content": [_text(reply)]}
    last = {"role": "user", "content": [_text(second.text)]}
    return _taken(vlm, messages=[user, answer, last])


HISTORIES: tuple[Callable[[VLM, Sequence[Asked], int], Taken], ...] = (
    another_picture,
    another_question,
    the_same_again,
    in_conversation,
)


def differing(
    folder: Path, setting: Setting, asked: Sequence[Asked], *, fixed: bool
) -> Iterator[dict[str, Any]]:
    """Of each history how many answers differ from those of a model that keeps nothing; ``fixed``
    see `SequenceLimits.fixed_runs`."""
    nothing = SequenceLimits(memory_bytes=0, kept=0, fixed_runs=fixed)
    with closing(setting.load(folder, replace(NOTHING_KEPT, sequences=nothing))) as alone:
        cold = [_ask(alone, each) for each in progress(asked, desc=f"{setting.name}, cold")]
        conversations = [
            in_conversation(alone, asked, number)
            for number in progress(range(len(asked)), desc=f"{setting.name}, at once")
        ]
    for history in HISTORIES:
        limits = Limits(sequences=SequenceLimits(fixed_runs=fixed))
        with closing(setting.load(folder, limits)) as vlm:
            numbers = progress(range(len(asked)), desc=f"{setting.name}, {history.__name__}")
            warm = [history(vlm, asked, number) for number in numbers]
        first = conversations if history is in_conversation else cold
        pairs = list(zip(warm, first, strict=True))
        yield {
            "setting": f"{setting.name}, fixed runs" if fixed else setting.name,
            "history": history.__name__.replace("_", " "),
            "questions": len(asked),
            "answers": sum(one[0] != other[0] for one, other in pairs),
            "first_tokens": sum(one[0][0] != other[0][0] for one, other in pairs),
            "logits": sum(not np.array_equal(one[1], other[1]) for one, other in pairs),
            "largest": max(
                float(np.abs(one[1] - other[1]).max() / np.abs(other[1]).max())
                for one, other in pairs
            ),
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a setting, a column a history."""
    histories = list(dict.fromkeys(row["history"] for row in rows))
    by_place = {(row["setting"], row["history"]): row for row in rows}
    names = list(dict.fromkeys(row["setting"] for row in rows))
    cells = [[name, *(_cell(by_place[name, history]) for history in histories)] for name in names]
    title = f"{rows[0]['questions']} questions:"
    return Table(title, ["decoder", *histories], cells).markdown()


def _cell(row: dict[str, Any]) -> str:
    return f"{row['answers']}, {row['logits']} ({row['largest']:.1e})"


def _ask(vlm: VLM, asked: Asked) -> Taken:
    picture, question = asked
    return _taken(vlm, prompt=question.text, images=[picture])


def _taken(vlm: VLM, **question: Any) -> Taken:
    witness = FirstLogits()
    request = replace(vlm.prepare(**question, sampling=SAMPLING), witness=witness)
    return vlm.parts.begin(request).answer.token_ids, witness.first[0]


def _image(picture: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": picture}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@click.command(help=__doc__)
@click.option("--build", type=_PATH, default=Path("build/parity"), show_default=True)
@click.option("--questions", default=200, show_default=True)
@click.option("--setting", "names", multiple=True, default=_SETTINGS, help="May be repeated.")
@click.option("--page", type=_PATH, help="Write the table between this file's markers.")
@click.option("--figures", "path", type=_PATH, help="Write the figures as JSON.")
def main(
    build: Path, questions: int, names: tuple[str, ...], page: Path | None, path: Path | None
) -> None:
    """Compare, print, and write where asked."""
    build.mkdir(parents=True, exist_ok=True)
    _, folder = artifact_of(build, DEMO, DEFAULT)
    asked = list(question_set("test", questions, per_picture=2))
    rows = [
        row
        for setting in settings_of(folder)
        if setting.name in names
        for fixed in (False, True)
        if not fixed or setting.decoder.startswith("int8")
        for row in differing(folder, setting, asked, fixed=fixed)
    ]
    text = table(rows)
    click.echo(text)
    if page:
        replace_section(page, "histories", text)
    if path:
        replace_file(path, f"{json.dumps(rows, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
