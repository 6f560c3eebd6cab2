"""Knows what can be asked of an export and which requests make no sense; imports neither torch nor transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pocketvlm import PocketVLMError

# File name suffixes as the onnx-community layout has them; integer precisions add their line and a pass.
PRECISION_SUFFIXES: Mapping[str, str] = {"fp32": "", "fp16": "_fp16"}
# The precision whose graphs the parity gate holds against the checkpoint: always built, kept when asked for.
GATE_PRECISION = "fp32"
GATE_PROMPT = "What is in the picture?"


@dataclass(frozen=True)
class ExportOptions:
    """What to export; the first value of each list is the artifact's default.

    Attributes:
        pruner: name of a method in `pocketvlm_export.pruning`.
        pruner_options: the method's own options, as text.
        budgets: visual tokens kept per picture, a graph each; empty for the method's default.
        vision_precisions, decoder_precisions: keys of `PRECISION_SUFFIXES`.
        revision: branch, tag or commit of a hub checkpoint.
        overwrite: replace an artifact that is already at the destination.
        keep_failed: where an artifact that failed the parity gate is kept for inspection.
    """

    pruner: str = "fastervlm"
    pruner_options: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    vision_precisions: tuple[str, ...] = ("fp32",)
    decoder_precisions: tuple[str, ...] = ("fp32",)
    revision: str | None = None
    overwrite: bool = False
    keep_failed: Path | None = None

    def __post_init__(self) -> None:
        for flag, values in (("vision", self.vision_precisions), ("decoder", self.decoder_precisions)):
            for value in values:
                if value not in PRECISION_SUFFIXES:
                    raise PocketVLMError(
                        f"{flag} precision {value!r} is unknown: choose from {', '.join(PRECISION_SUFFIXES)}"
                    )
            if not values or len(set(values)) != len(values):
                raise PocketVLMError(f"{flag} precisions {list(values)} are empty or repeated: name each one once")


def check_budgets(budgets: tuple[int, ...], tokens: int, default: int) -> tuple[int, ...]:
    """Return the budgets to export for a tower that makes ``tokens`` tokens, ``(default,)`` where none is asked.

    Raises:
        PocketVLMError: a budget lies outside 1..``tokens``, or is named twice.
    """
    chosen = budgets or (default,)
    for budget in chosen:
        if not 1 <= budget <= tokens:
            raise PocketVLMError(
                f"budget {budget} is outside 1..{tokens}: this checkpoint makes {tokens} visual tokens a picture"
            )
    if len(set(chosen)) != len(chosen):
        raise PocketVLMError(f"budgets {list(chosen)} repeat a value: name each one once")
    return chosen
