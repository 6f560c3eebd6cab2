"""Knows how a self-test is made: a picture that no rounding decides, what the reference gives of
it, and how far each published graph is from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import numpy as np

from pocketvlm.artifact import Artifact
from pocketvlm.artifact.specs import SelfTest
from pocketvlm.decoders import ENGINES, open_decoder
from pocketvlm.layouts import Layout, Medium, Tiles, open_layout
from pocketvlm.ort.settings import EngineSettings
from pocketvlm.selftest.computing import Floats, Ints, TestPrompt
from pocketvlm.selftest.expected import (
    Bounds,
    Expected,
    ExpectedAnswer,
    ExpectedVision,
    Reader,
)
from pocketvlm.selftest.form import to_json
from pocketvlm.selftest.judging import judge_answer, judge_vision
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.precisions import GATE_PRECISION
from pocketvlm_export.selftest.drawing import Drawn, draw
from pocketvlm_export.selftest.sampling import sample_answer, sample_batch
from pocketvlm_export.selftest.slack import EXACT, bounds_of

STEPS: Final = 4  # greedy tokens
_FOLDER: Final = "selftest"
_PICTURES: Final = 4  # tried, until no rounding decides what is kept of one
# What the picture is changed by to find out: as much as another order of sums changes features.
_ROUNDING: Final = 1e-5

Seen = tuple[VisionFeatures, ...]


def write_self_test(
    artifact: Artifact, medium: Medium, published: Callable[[str], bool] = lambda _: True
) -> SelfTest:
    """Compute the self-test of a medium on this machine's CPU, and write it into the artifact's
    folder.

    Args:
        artifact: of that medium, with the graphs that were built for the gate.
        medium: pictures or clips.
        published: whether a file stays in the artifact: bounds are measured of those.

    Returns:
        What the manifest says of it, once the files are in its table.

    Raises:
        PocketVLMError: a graph does not compute.
    """
    drawn, expected = _Making(artifact, medium, published).expected()
    name = f"{_FOLDER}/{medium}"
    pictures = tuple(f"{name}-{number}.png" for number in range(len(drawn.files)))
    (artifact.root / _FOLDER).mkdir(exist_ok=True)
    for file, data in zip(pictures, drawn.files, strict=True):
        (artifact.root / file).write_bytes(data)
    (artifact.root / f"{name}.json").write_text(to_json(expected), encoding="utf-8")
    return SelfTest(f"{name}.json", pictures)


class _Making:
    """A self-test under way, one graph in memory at a time."""

    def __init__(
        self, artifact: Artifact, medium: Medium, published: Callable[[str], bool]
    ) -> None:
        self._artifact = artifact
        self._manifest = manifest = artifact.manifest
        self._published = published
        self._layout: Layout[Any] = open_layout(artifact)
        prompter = Prompter.from_artifact(artifact)
        self._ids = prompter.encode(GATE_PROMPT, {medium: 1})
        self._question: Ints | None = None
        if manifest.vision.selectors:
            self._question = prompter.question_of(GATE_PROMPT)
        default = manifest.pruning.default_budget
        visions = manifest.vision.graphs[default]
        self._vision = (
            GATE_PRECISION if GATE_PRECISION in visions else manifest.vision.default_precision
        )
        self._engine, self._precision = self._reference_decoder()
        checked = next(name for name, engine in ENGINES.items() if engine.reads_providers)
        self._exact = Reader(checked, GATE_PRECISION, GATE_PRECISION)

    def _reference_decoder(self) -> tuple[str, str]:
        """The most exact decoder that there is: engine and precision."""
        spec = self._manifest.decoder
        for engine in filter(spec.engines.__contains__, ENGINES):
            for precision in (GATE_PRECISION, GATE_GGUF_TYPE):
                if precision in spec.by_engine[engine]:
                    return engine, precision
        return spec.default_engine, spec.default_precisions[spec.default_engine]

    def expected(self) -> tuple[Drawn, Expected]:
        """The picture, and what is expected of it."""
        for seed in range(_PICTURES):
            drawn = draw(self._layout, max(self._manifest.pruning.budgets), seed)
            prompt = self._prompt(drawn)
            seen, shaken = self._reference_vision(prompt, drawn.tiles)
            last = seed == _PICTURES - 1
            if not last and not self._is_kept(seen, shaken):
                continue
            default = self._manifest.pruning.default_budget
            prompt = self._with_scores(prompt, drawn, seen[default])
            answer, steady = self._reference_answer(prompt, seen[default], shaken[default])
            if steady or last:
                break
        return drawn, self._finished(prompt, drawn, seen, shaken, answer)

    def _prompt(self, drawn: Drawn, scores: Floats | None = None) -> TestPrompt:
        grid = drawn.tiles.grid
        return TestPrompt(self._artifact, grid, self._ids, self._question, scores)

    def _with_scores(self, prompt: TestPrompt, drawn: Drawn, seen: Seen) -> TestPrompt:
        """The prompt with scores for its visual tokens, where the decoder is given any."""
        if not self._manifest.decoder.reads_scores:
            return prompt
        slots = int((prompt.input_ids(seen) == self._manifest.decoder.image_token_id).sum())
        order = np.random.default_rng(0).permutation(slots)
        return self._prompt(drawn, (order / max(1, slots)).astype(np.float32))

    def _reference_vision(
        self, prompt: TestPrompt, tiles: Tiles
    ) -> tuple[dict[int, Seen], dict[int, Seen]]:
        """Of each budget what is kept, and what would be kept of a picture that is hardly another
        one."""
        noise = np.random.default_rng(0)
        near = dataclasses.replace(
            tiles,
            pixel_values=_shaken(tiles.pixel_values, noise),
            further=tuple(_shaken(each, noise) for each in tiles.further),
        )
        seen, shaken = {}, {}
        for budget in self._manifest.pruning.budgets:
            encoder = self._encoder(budget, self._vision)
            seen[budget], shaken[budget] = prompt.see(encoder, tiles), prompt.see(encoder, near)
        return seen, shaken

    def _encoder(self, budget: int, precision: str) -> VisionEncoder:
        return VisionEncoder.open(self._artifact, budget=budget, precision=precision)

    def _is_kept(self, seen: Mapping[int, Seen], shaken: Mapping[int, Seen]) -> bool:
        """Whether the same is kept, and values differ by no more than half of what they may."""
        for budget, each in seen.items():
            expected = _sampled(each, {})
            figures = judge_vision(
                shaken[budget], expected, Bounds(cosine=0, kept_overlap=1, difference=EXACT / 2)
            )
            if not all(figure.passed for figure in figures):
                return False
        return True

    def _reference_answer(
        self, prompt: TestPrompt, seen: Seen, shaken: Seen
    ) -> tuple[ExpectedAnswer, bool]:
        """The answer, and whether the picture that is hardly another one has it too, with logits
        that differ by no more than half of what they may."""
        with closing(self._decoder(prompt, seen, self._engine, self._precision)) as decoder:
            answer = sample_answer(prompt.read(decoder, seen, steps=STEPS))
            if self._engine != self._exact.engine:
                return answer, True
            others = prompt.read(decoder, shaken, answer.token_ids)
        bounds = Bounds(cosine=0, difference=EXACT / 2)
        figures = judge_answer(others, answer, bounds)
        return answer, all(figure.passed for figure in figures)

    def _decoder(self, prompt: TestPrompt, seen: Seen, engine: str, precision: str) -> Any:
        artifact = self._artifact.shortened(len(prompt.input_ids(seen)) + STEPS)
        threads = 1 if ENGINES[engine].waits_busily else None
        return open_decoder(
            artifact, engine=engine, precision=precision, settings=EngineSettings(threads=threads)
        )

    def _finished(
        self,
        prompt: TestPrompt,
        drawn: Drawn,
        seen: Mapping[int, Seen],
        shaken: Mapping[int, Seen],
        answer: ExpectedAnswer,
    ) -> Expected:
        default = self._manifest.pruning.default_budget
        vision, features = {}, {}
        for budget, each in seen.items():
            vision[budget], by_precision = self._measured_vision(
                prompt, drawn.tiles, budget, each, shaken[budget]
            )
            if budget == default:
                features = by_precision
        return Expected(
            reference={"vision": self._vision, "decoder": f"{self._engine} {self._precision}"},
            grid=drawn.tiles.grid,
            prompt_ids=self._ids,
            vision=vision,
            answer=self._measured_answers(prompt, features, answer),
            input_ids=prompt.input_ids(seen[default]).tolist(),
            question_ids=self._question,
            visual_scores=prompt.visual_scores,
        )

    def _measured_vision(
        self, prompt: TestPrompt, tiles: Tiles, budget: int, seen: Seen, shaken: Seen
    ) -> tuple[ExpectedVision, dict[str, Seen]]:
        """What a budget keeps, with the bounds of each published precision; and what each keeps."""
        expected, bounds, features = _sampled(seen, {}), {}, {}
        for precision, file in self._manifest.vision.graphs[budget].items():
            if not self._published(file):
                continue
            same = precision == self._vision
            ours = seen if same else prompt.see(self._encoder(budget, precision), tiles)
            exact = same and precision == GATE_PRECISION
            # Of the reference itself: what a rounding changes.
            measured = judge_vision(shaken if same else ours, expected, Bounds(0.0, 0.0))
            bounds[precision] = bounds_of(measured, exact=exact)
            features[precision] = ours
        return dataclasses.replace(expected, bounds=bounds), features

    def _measured_answers(
        self, prompt: TestPrompt, features: Mapping[str, Seen], answer: ExpectedAnswer
    ) -> ExpectedAnswer:
        """The answer with the bounds of each published decoder behind each vision graph."""
        bounds, answers = {}, {}
        longest = max(features.values(), key=lambda seen: len(prompt.input_ids(seen)))
        for engine, precision in self._readers():
            with closing(self._decoder(prompt, longest, engine, precision)) as decoder:
                for vision, seen in features.items():
                    reader = Reader(engine, precision, vision)
                    ours = prompt.read(decoder, seen, answer.token_ids)
                    figures = judge_answer(ours, answer, Bounds(0.0))
                    bounds[reader] = bounds_of(figures, exact=reader == self._exact)
                    answers[reader] = [int(row.argmax()) for row in ours.logits]
        return dataclasses.replace(answer, bounds=bounds, answers=answers)

    def _readers(self) -> Iterator[tuple[str, str]]:
        """Engine and precision of each published decoder."""
        spec = self._manifest.decoder
        for engine in spec.engines:
            for precision, file in spec.by_engine[engine].items():
                if self._published(file):
                    yield engine, precision


def _sampled(seen: Seen, bounds: Mapping[str, Bounds]) -> ExpectedVision:
    return ExpectedVision([sample_batch(features) for features in seen], bounds)


def _shaken(pixels: Floats, noise: np.random.Generator) -> Floats:
    return pixels + _ROUNDING * noise.standard_normal(pixels.shape, dtype=np.float32)
