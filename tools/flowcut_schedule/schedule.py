"""Knows how many tokens FlowCut (arXiv 2505.19536) itself would drop layer by layer, and the stages
with constant numbers that come nearest to it."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import RequestError
from pocketvlm_export import upstream
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component
from pocketvlm_export.verification.masked_tower import MaskedTower
from pocketvlm_export.verification.tower_stages import Layer

_BY = "flowcut"


class FlowCutTower(MaskedTower):
    """A run in which FlowCut decides at every stage how many tokens are kept.

    Attributes:
        counts: how many, stage by stage.
    """

    def __init__(self, vision: VisionSpec, stages: Sequence[Stage], keep: int) -> None:
        """``keep`` are those that the last layer but one leaves."""
        super().__init__(vision, stages)
        self.counts: list[int] = []
        self._last, self._keep = vision.score_layer, keep

    def keep_of(self, stage: Stage, layers: Sequence[Layer]) -> int:
        """See `MaskedTower.keep_of`."""
        attended = layers[-1].by_token(layers[-1].maps[:, 0, 1:].mean(axis=0, dtype=np.float64))
        count = left_of(attended, self._keep, self._last - stage.layer)
        self.counts.append(count)
        return count


def left_of(attended: npt.NDArray[np.float64], keep: int, remaining: int) -> int:
    """Return how many tokens FlowCut leaves of n: P = round((n - keep) / sqrt(r) (1 - (H / ln
    n)^2)) are dropped, with H the entropy of what [CLS] pays to each, (n,); at ``remaining`` r = 0
    all but ``keep``."""
    tokens = len(attended)
    if remaining == 0 or tokens <= keep:
        return min(tokens, keep)
    shares = attended / attended.sum()
    entropy = -float(np.sum(shares * np.log(np.maximum(shares, 1e-300))))
    part = 1 - (entropy / math.log(tokens)) ** 2
    return max(keep, tokens - round((tokens - keep) / math.sqrt(remaining) * part))


def flowcut_schedule(
    checkpoint: Checkpoint, pixel_values: npt.NDArray[np.float32], keep: int
) -> tuple[Stage, ...]:
    """Return stages whose numbers are the means of FlowCut's own over pictures (B, 3, H, W), down
    to ``keep`` tokens before the layer whose attention ranks patches in the end; layers in which
    nothing is dropped on average have none.

    Raises:
        RequestError: a tower without [CLS], or too shallow for FlowCut.
    """
    family, spec = checkpoint.family, checkpoint.spec
    last = spec.vision.score_layer
    if not spec.vision.has_cls or last < 1:
        raise RequestError(
            f"FlowCut needs a [CLS] token and two layers, which a {spec.vision.config.model_type} "
            "tower cut off at its features has not",
            advice="choose other tower stages",
            setting="tower_stage",
        )
    # After every second layer, counted back from the last but one.
    stages = tuple(Stage(layer, keep, _BY) for layer in range(last % 2 or 2, last + 1, 2))
    counts = []
    with component(
        family.load_tower(
            checkpoint.weights,
            spec,
            layers=spec.vision.dimensions.layers,
            attention=upstream.recording_attention(),
        )
    ) as tower:
        for picture in pixel_values:
            run = FlowCutTower(spec.vision, stages, keep)
            with (
                torch.inference_mode(),
                run.follow(tower),
                upstream.recorded_attention(None, run),
            ):
                tower(torch.from_numpy(picture[None]))
            counts.append(run.counts)
    means, schedule = np.mean(counts, axis=0).round().astype(int).tolist(), []
    left = spec.vision.tokens
    for stage, count in zip(stages, means, strict=True):
        if count < left:
            schedule.append(Stage(stage.layer, count, _BY))
            left = count
    return tuple(schedule)
