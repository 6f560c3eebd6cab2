"""PocketVLM: an artifact, with one of its decoders and one of its precisions."""

from __future__ import annotations

from pathlib import Path

from compare_peers.programs.common import Stopwatch, read_settings, serve
from pocketvlm import VLM, EngineSettings, Provider, Sampling, __version__
from pocketvlm.limits import NOTHING_KEPT

options = read_settings()
load = dict(options["load"])
provider = load.pop("vision_provider", None)
engines = EngineSettings(
    threads=options["threads"],
    vision_providers=None if provider is None else (Provider.typed(provider),),
)
# Every question is a first one, as for the others.
vlm = VLM.load(options["folder"], settings=engines, limits=NOTHING_KEPT, **load)


def answer(picture: Path, watch: Stopwatch) -> int:
    """See `serve`."""
    done = vlm.generate(
        options["question"],
        images=[picture],
        sampling=Sampling(max_new_tokens=options["new_tokens"]),
    )
    watch.first = watch.started + done.timings_ms["ttft"] / 1e3
    watch.tokens = len(done.token_ids)
    watch.last = watch.first + done.timings_ms["decode"] / 1e3
    return done.prompt_tokens["total"]


serve(answer, f"pocketvlm {__version__}")
