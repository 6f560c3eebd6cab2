"""Asks one loaded model many drawn questions, and samples its memory: ARTIFACT OUT.jsonl
[options]; a process of its own, so that nothing else is measured."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from long_runs.memory import Sample, take_sample
from pocketvlm import VLM, EngineSettings, Limits, PocketVLMError, Sampling
from pocketvlm.artifact import is_nested
from pocketvlm.chat import Chat
from pocketvlm.limits import FeatureLimits, SequenceLimits

_WORDS = (
    *("What", "is", "in", "the", "picture?", "How", "many", "red", "circles", "are", "there,"),
    *("left", "of", "blue", "square"),
)
_KNOWN = 12  # pictures that come again
_SIDES = (16, 160)  # of pictures, in pixels
_SEQUENCES = SequenceLimits(memory_bytes=64 << 20)

Pixels = npt.NDArray[np.uint8]


class Asker:
    """Draws questions and asks them.

    Attributes:
        counts: how many of each kind were answered, refused or left.
    """

    def __init__(self, vlm: VLM, seed: int) -> None:
        self._vlm, self._seed = vlm, seed
        self.begin_again()
        self._known = [self._fresh() for _ in range(_KNOWN)]
        self._kinds: tuple[Callable[[], None], ...] = (
            self._one,
            self._one,
            self._sampled,
            self._several,
            self._without,
            self._messages,
            self._left,
            self._conversation,
            self._goes_on,
            self._refused,
        )
        self.counts: Counter[str] = Counter()

    def begin_again(self) -> None:
        """Draw the same questions once more, from the first on."""
        self._random = np.random.default_rng(self._seed)
        self._endless = self._vlm.chat()

    def ask(self) -> None:
        """Ask one question of a drawn kind."""
        kind = self._kinds[self._random.integers(len(self._kinds))]
        kind()
        self.counts[kind.__name__.strip("_")] += 1

    def _one(self) -> None:
        self._vlm.generate(
            self._words(), [self._picture()], budget=self._budget(), sampling=self._length()
        )

    def _sampled(self) -> None:
        drawn = Sampling(
            max_new_tokens=int(self._random.integers(1, 13)),
            temperature=float(self._random.uniform(0.2, 2.0)),
            top_k=int(self._random.integers(0, 50)),
            top_p=float(self._random.uniform(0.5, 1.0)),
            repetition_penalty=float(self._random.uniform(1.0, 1.5)),
            seed=int(self._random.integers(1 << 30)),
            stop=("z",),
        )
        self._vlm.generate(self._words(), [self._picture()], sampling=drawn)

    def _several(self) -> None:
        count = int(self._random.integers(2, 5))
        self._vlm.generate(
            self._words(),
            [self._picture() for _ in range(count)],
            budget=self._budget(),
            sampling=self._length(),
        )

    def _without(self) -> None:
        self._vlm.generate(self._words(), sampling=self._length())

    def _messages(self) -> None:
        content = [
            {"type": "image", "image": self._picture()},
            {"type": "text", "text": self._words()},
        ]
        self._vlm.generate(
            messages=[
                {"role": "user", "content": content},
                {"role": "assistant", "content": [{"type": "text", "text": self._words()}]},
                {"role": "user", "content": [{"type": "text", "text": self._words()}]},
            ],
            sampling=self._length(),
        )

    def _left(self) -> None:
        """A stream that nobody reads to its end."""
        stream = self._vlm.stream(self._words(), [self._picture()], sampling=self._length())
        next(iter(stream), None)
        stream.close()

    def _conversation(self) -> None:
        chat = self._vlm.chat()
        chat.ask(self._words(), [self._picture()], sampling=self._length())
        chat.ask(self._words(), sampling=self._length())

    def _goes_on(self) -> None:
        """One conversation from the first answer to the last, which fills the context again and
        again."""
        self._in(self._endless)

    def _in(self, chat: Chat) -> None:
        pictures = [self._picture()] if self._random.random() < 0.3 else []
        chat.ask(self._words(), pictures, sampling=self._length())

    def _refused(self) -> None:
        tries: tuple[Callable[[], object], ...] = (
            lambda: self._vlm.generate(self._words(), [b"GIF89a" + self._random.bytes(50)]),
            lambda: self._vlm.generate(self._words(), [self._picture()], budget=1 << 20),
            lambda: self._vlm.generate("a " * 20_000),
        )
        try:
            tries[self._random.integers(len(tries))]()
        except PocketVLMError:
            return
        raise AssertionError("nothing was refused")

    def _words(self) -> str:
        count = int(self._random.integers(3, 12))
        return " ".join(self._random.choice(_WORDS, count))

    def _length(self) -> Sampling:
        return Sampling(max_new_tokens=int(self._random.integers(1, 13)))

    def _budget(self) -> int | None:
        """Any that the loaded graph gives, where its method is nested."""
        if not is_nested(self._vlm.artifact.manifest):
            return None
        return int(self._random.integers(1, self._vlm.budget + 1))

    def _picture(self) -> Pixels:
        if self._random.random() < 0.5:
            return self._known[self._random.integers(_KNOWN)]
        return self._fresh()

    def _fresh(self) -> Pixels:
        height, width = self._random.integers(*_SIDES, size=2)
        return self._random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def answer_many(
    asker: Asker, count: int, every: int, *, cycle: bool = False, lost: int = 0
) -> Iterator[Sample]:
    """Ask ``count`` questions; gives a sample after each ``every`` of them.

    In a ``cycle`` these are the same again and again: what is remembered of them is then the same
    at each sample, so that a short run shows what stays. So many bytes are ``lost`` with each
    answer, to see that they are found.
    """
    leak = []
    for number in range(1, count + 1):
        asker.ask()
        if lost:
            leak.append(bytes(lost))
        if number % every == 0:
            if cycle:
                asker.begin_again()
            yield take_sample(number)


@click.command(help=__doc__)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--engine", default="onnx", show_default=True)
@click.option("--answers", default=10_000, show_default=True)
@click.option("--every", default=20, show_default=True, help="Answers between samples.")
@click.option("--cycle", is_flag=True, help="Ask the same between all samples.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--features",
    default=1 << 20,
    show_default=True,
    help="Bytes of features that are kept, so few that they are reached while it warms up.",
)
@click.option("--leak", default=0, help="Bytes to lose with each answer, to see them found.")
def main(
    artifact: Path,
    out: Path,
    engine: str,
    answers: int,
    every: int,
    cycle: bool,
    seed: int,
    features: int,
    leak: int,
) -> None:
    """Ask, and write samples as lines of JSON, with the counts of each kind behind them."""
    limits = Limits(features=FeatureLimits(memory_bytes=features), sequences=_SEQUENCES)
    vlm = VLM.load(artifact, decoder=engine, settings=EngineSettings(threads=1), limits=limits)
    asker = Asker(vlm, seed)
    with out.open("w", encoding="utf-8") as file:
        for sample in answer_many(asker, answers, every, cycle=cycle, lost=leak):
            file.write(f"{json.dumps(dataclasses.asdict(sample))}\n")
            file.flush()
        file.write(f"{json.dumps(dict(asker.counts))}\n")


if __name__ == "__main__":
    main()
