"""Knows the precisions that a graph can be exported in: names, file suffixes, sizes; imports
neither torch nor onnx."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["vision", "decoder", "embed"]


@dataclass(frozen=True)
class Precision:
    """How a graph stores its weights; a new one is a line of `PRECISIONS`, a pass, and its bounds
    in the parity gate.

    Attributes:
        name: as options and the manifest have it.
        suffix: of its files, as the onnx-community layout names them where it knows the precision.
        bits: a weight on disk, scales included.
        parts: the graphs that it is for.
        table: of a decoder in this precision, the precision of its embedding table unless another
            is asked for.
        js: what transformers.js calls it, None where it has no name for these files.
        standard: whether standard ONNX operators can express it.
        shares_head: whether the table of a tied checkpoint is the very bytes of the decoder's head,
            and stored once.
    """

    name: str
    suffix: str
    bits: float
    parts: tuple[Part, ...]
    table: str
    js: str | None
    standard: bool = True
    shares_head: bool = False

    @property
    def floats(self) -> bool:
        """Whether weights are multiplied as floating-point numbers."""
        return self.bits >= 16


# A browser, which loads one weights file a graph, needs a table of another precision where the two
# share theirs.
_LISTED = (
    Precision(
        "fp32", "", 32, ("vision", "decoder", "embed"), table="fp32", js="fp32", shares_head=True
    ),
    Precision(
        "fp16",
        "_fp16",
        16,
        ("vision", "decoder", "embed"),
        table="fp16",
        js="fp16",
        shares_head=True,
    ),
    # Dynamic: weights signed and per channel, activations unsigned and measured as they come.
    Precision("int8", "_quantized", 8.1, ("vision", "decoder"), table="fp16", js="q8"),
    # Blocks of 32 as the onnx-community layout has them; of 128 decode a little faster and lose
    # more.
    *(
        Precision(
            name,
            suffix,
            bits,
            ("decoder", "embed"),
            table=name,
            js=js,
            standard=False,
            shares_head=True,
        )
        for name, suffix, bits, js in (
            ("int4", "_q4", 5, "q4"),
            ("int4_b128", "_q4_b128", 4.25, None),
        )
    ),
)
PRECISIONS: Mapping[str, Precision] = {precision.name: precision for precision in _LISTED}
# The precision whose graphs the parity gate holds against the checkpoint: always built, kept when
# asked for.
GATE_PRECISION = "fp32"


def names_for(part: Part) -> tuple[str, ...]:
    """Return the precisions that a kind of graph comes in."""
    return tuple(name for name, precision in PRECISIONS.items() if part in precision.parts)
