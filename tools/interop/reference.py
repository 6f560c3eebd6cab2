"""Knows what clients are compared with: Hugging Face's modules, and this project's runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from demo_reference.answers import PrunedModel, fastervlm
from interop.client import Asked
from pocketvlm import Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.decoders.onnx import OnnxDecoder
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.batches import arrange_features, encode_tiles
from pocketvlm.vision.encoder import VisionEncoder
from train_demo.__main__ import DEMO
from train_demo.scenes import Question


def hugging_face_tokens(
    pairs: Sequence[tuple[Path, Question]], processor: AutoProcessor, budget: int
) -> list[list[int]]:
    """Greedy tokens of Hugging Face's modules on the patches that FasterVLM keeps."""
    model = LlavaForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval()
    pruned = PrunedModel(model, processor)
    features, scores = pruned.encode([Image.open(path).convert("RGB") for path, _ in pairs])
    kept = [fastervlm(row, budget) for row in scores]
    return [
        pruned.tokens(features[i : i + 1], kept[i][None], [question])[0]
        for i, (_, question) in enumerate(pairs)
    ]


class Expected(list[int]):
    """Greedy tokens, and by how much each step prefers its token to others.

    Attributes:
        logits: before each token, (vocab,).
        near: logits closer than this are a tie, which a sound client may decide otherwise: what the
            gate measured that the precision loses. 0 where it is exact.
    """

    def __init__(self, near: float) -> None:
        super().__init__()
        self.logits: list[npt.NDArray[np.float32]] = []
        self.near = near

    def append_best(self, logits: npt.NDArray[np.float32]) -> None:
        """Take the likeliest token."""
        self.logits.append(logits)
        self.append(int(logits.argmax()))

    def tied(self, tokens: Sequence[int]) -> bool:
        """Whether ``tokens`` are these up to one that is as likely here."""
        at = next((i for i, (a, b) in enumerate(zip(self, tokens, strict=False)) if a != b), None)
        if at is None:
            return False
        logits = self.logits[at]
        return bool(logits.max() - logits[tokens[at]] <= self.near)


def in_one_run(
    folder: Path,
    asked: Sequence[Asked],
    steps: int,
    decoder: str | None = None,
    table: str | None = None,
) -> list[Expected]:
    """Greedy tokens of this runtime's graphs, a whole prompt in one run, as other clients read it.

    A loaded model goes on from what it keeps of a prompt. Where activations are quantized as they
    come, as int8 does it, that may change a token between two that are nearly as likely.
    ``decoder`` is a precision; None is the artifact's default, as it is for the rest. ``table`` is
    that of another embedding table than goes with it.
    """
    artifact = Artifact.open(folder)
    layout, prompter = open_layout(artifact), Prompter.from_artifact(artifact)
    encoder = VisionEncoder.open(artifact)
    engine = (
        OnnxDecoder.open(artifact, precision=decoder, table=table)
        if table
        else open_decoder(artifact, precision=decoder)
    )
    ends, answers = artifact.manifest.decoder.eos_token_ids, []
    precision = decoder or artifact.manifest.decoder.default_precisions["onnx"]
    lost = artifact.manifest.parity.by_precision.get(precision, {}).get("decoder", {})
    for text, image, budget in asked:
        ids, pictures = prompter.encode(text, pictures=0 if image is None else 1), []
        if image is not None:
            tiles = layout.cut(open_picture(image))
            grid, seen = tiles.grid, encode_tiles(encoder, layout, tiles)
            seen = tuple(each.narrow(budget) if budget else each for each in seen)
            kept, most = seen[0].kept_indices, max(each.budget for each in seen)
            slots = layout.expand(grid, most, kept if len(seen) == 1 else None)
            ids = prompter.place(ids, [slots])
            features, extras = arrange_features(layout, grid, seen, {})
            one = grid.tokens if grid.tiles == 1 else None
            pictures = [
                EmbeddingSegment(
                    features, grid=one, kept=None if one is None else kept[0], extras=extras
                )
            ]
        with closing(engine.sequence()) as sequence:
            tokens = Expected(lost.get("max_abs", 0.0))
            tokens.append_best(sequence.prefill(prompter.segments(ids, pictures)))
            while len(tokens) < steps and tokens[-1] not in ends:
                tokens.append_best(sequence.decode(tokens[-1]))
        answers.append(tokens)
    return answers
