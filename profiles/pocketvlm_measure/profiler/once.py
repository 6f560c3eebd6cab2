"""The process that is measured: it loads, warms up, answers once and reports what that took.

It reads a job from standard input and writes a result to standard output. One process per run:
memory and caches of one configuration do not burden the next, the peak of memory is its own, and an
engine that ends its process ends no more than that.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pocketvlm import Sampling
from pocketvlm.answering import ms_since
from pocketvlm.artifact import Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.errors import PocketVLMError
from pocketvlm.layouts import Layout, tokens_of_tile
from pocketvlm.vision.encoder import VisionEncoder, open_beside
from pocketvlm.vlm import VLM
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import LoadWatch
from pocketvlm_measure.profiler.memory import peak_memory
from pocketvlm_measure.profiler.questions import Question, question_layouts
from pocketvlm_measure.profiler.selection import measure_selection


@dataclass(frozen=True)
class Sample:
    """One measured run.

    Attributes:
        stages: milliseconds, see `pocketvlm.answer.Timings`.
        visual_before, visual_after: visual tokens of all pictures and clips.
        prompt_tokens: tokens of the prompt, visual ones counted.
        new_tokens: tokens generated.
        value_bytes: of one number in the decoder's cache.
        peak_bytes: the process's peak memory; None where the system does not count it.
        other_load: per cent of all CPUs that others used from loading to the last token; None where
            it cannot be measured.
        tile_tokens: of each tile of all pictures, and frame of all clips, before pruning, in their
            order.
        picture_sizes: of each picture or clip as it was given, as ``640x480``, width first.
        visual_stages: visual tokens that layers from each stage of the decoder on read.
    """

    stages: dict[str, float]
    visual_before: int
    visual_after: int
    prompt_tokens: int
    new_tokens: int
    value_bytes: int
    peak_bytes: int | None
    other_load: float | None
    tile_tokens: Sequence[int] = ()
    picture_sizes: Sequence[str] = ()
    visual_stages: Sequence[int] = ()

    @property
    def tiles(self) -> int:
        """How many tiles all pictures have, and frames all clips."""
        return len(self.tile_tokens)


def answer_once(folder: Path, case: Case, question: Question, warmup: int) -> Sample:
    """Load, answer ``warmup`` times unmeasured, then once; raises `PocketVLMError` for what
    `VLM.load` would refuse."""
    watch = LoadWatch()
    started = time.perf_counter()
    artifact = _endless(case.of(Artifact.open(folder)))
    encoder = VisionEncoder.open(
        artifact, budget=case.budget, precision=case.vision_precision, settings=case.settings
    )
    decoder = open_decoder(
        artifact, engine=case.decoder, precision=case.decoder_precision, settings=case.settings
    )
    beside = open_beside(
        artifact, budget=case.budget, precision=case.vision_precision, settings=case.settings
    )
    vlm = VLM(artifact, encoder, decoder, beside=beside)
    load_ms = ms_since(started)
    media = question.open(artifact)
    layouts = question_layouts(artifact, question)
    given = {
        # Files are opened in the time that is taken.
        medium: list(paths) or [one.content for one in media if one.medium == medium]
        for medium, paths in (("image", question.images), ("video", question.videos))
    }
    for _ in range(warmup + 1):
        answer = vlm.generate(
            question.prompt,
            given["image"],
            videos=given["video"],
            budget=case.budget,
            sampling=Sampling(max_new_tokens=question.new_tokens, stop=()),
        )
    return Sample(
        stages={**cast(dict[str, float], answer.timings_ms), "load": load_ms},
        visual_before=answer.visual_tokens["before"],
        visual_after=answer.visual_tokens["after"],
        prompt_tokens=answer.prompt_tokens["total"],
        new_tokens=len(answer.token_ids),
        value_bytes=decoder.cache_value_bytes,
        peak_bytes=peak_memory(),
        other_load=watch.other_load(),
        visual_stages=answer.visual_tokens.get("stages", []),
        tile_tokens=[
            tokens for one in media for tokens in _tile_tokens(layouts[one.medium], one.size)
        ],
        picture_sizes=[f"{width}x{height}" for height, width in (one.size for one in media)],
    )


def _tile_tokens(layout: Layout[Any], size: tuple[int, int]) -> list[int]:
    """Of each tile of a picture of (height, width) pixels, or of each frame."""
    grid = layout.grid(*size)
    return [tokens_of_tile(layout, grid)] * grid.tiles


def _endless(artifact: Artifact) -> Artifact:
    """The artifact without end-of-sequence tokens: every answer has the most tokens allowed."""
    decoder = dataclasses.replace(artifact.manifest.decoder, eos_token_ids=())
    return dataclasses.replace(
        artifact, manifest=dataclasses.replace(artifact.manifest, decoder=decoder)
    )


def main() -> None:
    """Read a job from standard input, write the result or the refusal to standard output, both
    JSON."""
    job: dict[str, Any] = json.load(sys.stdin)
    case, question = Case(**job["case"]), Question.of(job["question"])
    try:
        if job["task"] == "select":
            artifact = case.of(Artifact.open(job["folder"]))
            first = question.open(artifact)[0]
            selection = measure_selection(
                artifact.reading(first.medium),
                first.content,
                budget=case.budget,
                precision=case.vision_precision,
                settings=case.settings,
                runs=job["runs"],
            )
            result = None if selection is None else dataclasses.asdict(selection)
        else:
            result = dataclasses.asdict(
                answer_once(Path(job["folder"]), case, question, job["warmup"])
            )
    except PocketVLMError as error:
        json.dump({"refusal": error.to_dict()}, sys.stdout)
        return
    json.dump({"result": result}, sys.stdout)


if __name__ == "__main__":
    main()
