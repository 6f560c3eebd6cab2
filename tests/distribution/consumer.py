"""A program of somebody else, as `test_types` has mypy check it: it is not run.

Each `assert_type` is a promise to whoever calls PocketVLM from typed code.
"""

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

from pocketvlm import (
    VLM,
    Answer,
    Artifact,
    Chat,
    EngineSettings,
    FeatureLimits,
    Guided,
    Limits,
    PictureLimits,
    PocketVLMError,
    Provider,
    Sampling,
    SequenceLimits,
    VideoLimits,
    __version__,
)


def ask(folder: Path, photo: Path) -> str:
    limits = Limits(pictures=PictureLimits(max_bytes=1 << 20))
    vlm = VLM.load(folder, budget=36, settings=EngineSettings(threads=2), limits=limits)
    answer = vlm.generate("What is it?", images=[photo], sampling=Sampling(max_new_tokens=8))
    assert_type(vlm, VLM)
    assert_type(answer, Answer)
    assert_type(answer.visual_tokens["after"], int)
    assert_type(answer.timings_ms["ttft"], float)
    assert_type(answer.kept_indices, list[list[int]])
    return answer.text


def on_a_gpu(folder: Path) -> str:
    limits = Limits(
        videos=VideoLimits(max_seconds=20),
        features=FeatureLimits(memory_bytes=8 << 20),
        sequences=SequenceLimits(kept=1),
    )
    provider = Provider("CUDAExecutionProvider", {"device_id": "0"})
    vlm = VLM.load(folder, settings=EngineSettings(providers=(provider,)), limits=limits)
    assert_type(vlm.cache_bytes, int)
    assert_type(__version__, str)
    return vlm.decoder


def other_pictures(vlm: VLM) -> None:
    vlm.generate("What is it?", images=[b"...", Image.new("RGB", (8, 8))])
    vlm.generate("What is it?", images=[np.zeros((8, 8, 3), np.uint8)])
    vlm.generate(
        messages=[
            {"role": "system", "content": "Answer with one word."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "photo.jpg"},
                    {"type": "text", "text": "What is it?"},
                ],
            },
        ]
    )


def stream(vlm: VLM) -> int:
    answer = vlm.stream("What is it?")
    for piece in answer:
        assert_type(piece, str)
    return len(answer.answer.token_ids)


def converse(vlm: VLM) -> None:
    chat = vlm.chat(system="Be brief.")
    assert_type(chat, Chat)
    assert_type(chat.ask("And now?"), Answer)
    chat.reset()


def refused(folder: str) -> str | None:
    try:
        artifact = Artifact.open(folder)
    except PocketVLMError as error:
        assert_type(error.exit_code, int)
        return error.advice
    assert_type(artifact.manifest.pruning.default_budget, int)
    return None


def guided(model: VLM, guide: VLM) -> None:
    assert_type(Guided(model, guide).generate("What is it?", images=["a.png"]).confidence, float)
