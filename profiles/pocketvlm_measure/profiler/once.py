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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pocketvlm import Sampling
from pocketvlm.answering import ms_since
from pocketvlm.artifact import Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.errors import PocketVLMError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vlm import VLM
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import LoadWatch
from pocketvlm_measure.profiler.memory import peak_memory
from pocketvlm_measure.profiler.questions import Question, noise_picture, picture_grids
from pocketvlm_measure.profiler.selection import measure_selection


@dataclass(frozen=True)
class Sample:
    """One measured run.

    Attributes:
        stages: milliseconds, see `pocketvlm.answer.Timings`.
        visual_before, visual_after: visual tokens of all pictures.
        prompt_tokens: tokens of the prompt, visual ones counted.
        new_tokens: tokens generated.
        value_bytes: of one number in the decoder's cache.
        peak_bytes: the process's peak memory; None where the system does not count it.
        other_load: per cent of all CPUs that others used from loading to the last token; None where
            it cannot be measured.
        tiles: of all pictures.
        visual_dropped: visual tokens that the decoder's later layers do not read.
    """

    stages: dict[str, float]
    visual_before: int
    visual_after: int
    prompt_tokens: int
    new_tokens: int
    value_bytes: int
    peak_bytes: int | None
    other_load: float | None
    tiles: int = 1
    visual_dropped: int = 0


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
    vlm = VLM(artifact, encoder, decoder)
    load_ms = ms_since(started)
    images = question.images or [noise_picture(artifact)]
    for _ in range(warmup + 1):
        answer = vlm.generate(
            question.prompt,
            images,
            budget=case.budget,
            sampling=Sampling(max_new_tokens=question.new_tokens),
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
        visual_dropped=answer.visual_tokens["after"]
        - answer.visual_tokens.get("fastv", answer.visual_tokens["after"]),
        tiles=sum(grid.tiles for grid in picture_grids(artifact, question)),
    )


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
    case = Case(**job["case"])
    try:
        if job["task"] == "select":
            selection = measure_selection(
                case.of(Artifact.open(job["folder"])),
                budget=case.budget,
                precision=case.vision_precision,
                settings=case.settings,
                runs=job["runs"],
            )
            result = None if selection is None else dataclasses.asdict(selection)
        else:
            question = Question(**job["question"] | {"images": tuple(job["question"]["images"])})
            result = dataclasses.asdict(
                answer_once(Path(job["folder"]), case, question, job["warmup"])
            )
    except PocketVLMError as error:
        json.dump({"refusal": error.to_dict()}, sys.stdout)
        return
    json.dump({"result": result}, sys.stdout)


if __name__ == "__main__":
    main()
