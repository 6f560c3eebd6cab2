"""Knows the precisions that a graph can be exported in: names, files, sizes, the pass that makes
them and what they may lose; imports neither torch nor onnx."""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx_ir as ir

Part = Literal["vision", "decoder", "embed"]


@dataclass(frozen=True)
class VisionBounds:
    """What a vision graph that is not float32 may lose, of the picture that loses most.

    Attributes:
        cosine: least, of the features of the patches that both sides kept.
        overlap: least part of the reference's patches that are kept too.
        near: patches may be exchanged beyond that where their scores lie this near the cut,
            relatively: there a rounding decides.
    """

    cosine: float
    overlap: float
    near: float


_SELECTION = VisionBounds(cosine=0.999, overlap=0.8, near=0.1)


@dataclass(frozen=True)
class Precision:
    """How a graph stores its weights; a new one is a pass and an entry of `PRECISIONS`.

    Attributes:
        name: as options and the manifest have it.
        suffix: of its files, as the onnx-community layout names them where it knows the precision.
        bits: a weight on disk, scales included.
        parts: the graphs that it is for.
        table: of a decoder in this precision, the precision of its embedding table unless another
            is asked for.
        js: what transformers.js calls it, None where it has no name for these files.
        resident: bytes of memory that ONNX Runtime takes for each byte of a graph on disk, measured
            with a decoder of 135M weights and rounded up. It packs the matrices of a memory-mapped
            file again, those in 4 bits beside the file, and weights stored as float16 become
            float32.
        weights_pass: what makes it of a float32 graph, ``module:Class`` within `onnx_passes`; empty
            for float32 itself.
        block: weights that share a scale, which the pass is made with; None where it takes none.
        logits_cosine: least cosine of a decoder's logits at all positions; 1 where the parity gate
            compares exactly. Less means a broken file: random decoders are the hardest case. 4-bit
            left 0.88 of one 64 wide, 0.61 of one of the size of Qwen2-0.5B and 0.999 of a trained
            one; int8 left 0.973 and 0.9999 of the last two.
        table_cosine: least cosine of the rows of an embedding table; 1 where it has none, or where
            the rows are those of the checkpoint.
        vision: bounds of its vision graphs; None where the gate compares exactly, or it has none.
        selection: bounds of what an exact vision graph keeps where a table in this precision reads
            the question. Beside a question that was read exactly, tables of random rows, 64 wide,
            moved picks of 36 patches by .004 of what they add in 8 bits at most, by .08 in 4.
        standard: whether standard ONNX operators can express it.
        calibrated: whether its pass takes the ranges of activations, measured on pictures that
            whoever exports gives.
        shares_head: whether the table of a tied checkpoint is the very bytes of the decoder's head,
            and stored once. A browser, which loads one weights file per graph, then needs a table
            of another precision.
    """

    name: str
    suffix: str
    bits: float
    parts: tuple[Part, ...]
    table: str
    js: str | None
    resident: float
    weights_pass: str = ""
    block: int | None = None
    logits_cosine: float = 1.0
    table_cosine: float = 1.0
    vision: VisionBounds | None = None
    selection: VisionBounds = _SELECTION
    standard: bool = True
    calibrated: bool = False
    shares_head: bool = False
    note: str = ""

    @property
    def floats(self) -> bool:
        """Whether weights are multiplied as floating-point numbers."""
        return self.bits >= 16

    def make_pass(
        self, ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})
    ) -> "ir.passes.InPlacePass":
        """Return the pass that turns a float32 graph into this precision; where it is `calibrated`,
        by the ``ranges`` of its activations, see `pocketvlm_export.calibration`."""
        make = pkgutil.resolve_name(f"pocketvlm_export.onnx_passes.{self.weights_pass}")
        taken = (ranges,) if self.calibrated else () if self.block is None else (self.block,)
        made: ir.passes.InPlacePass = make(*taken)
        return made


_ALL: tuple[Part, ...] = ("vision", "decoder", "embed")
_TEXT: tuple[Part, ...] = ("decoder", "embed")
_FLOAT16 = "half_weights:HalfWeights"
_INT8 = "dynamic_int8:DynamicInt8"
_INT4 = "block_int4:BlockInt4"
_COARSE = VisionBounds(cosine=0.999, overlap=0.6, near=0.2)
_RUNS = (
    "Activations are measured in each run, so that logits depend a little on how a prompt is cut "
    "into runs: where two tokens are nearly as likely, programs may answer differently."
)
# fmt: off
PRECISIONS: Mapping[str, Precision] = {precision.name: precision for precision in (
    Precision("fp32", "", 32, _ALL, "fp32", "fp32", 1.15, shares_head=True),
    Precision("fp16", "_fp16", 16, _ALL, "fp16", "fp16", 2.2, _FLOAT16, logits_cosine=0.999,
              table_cosine=0.9999, vision=VisionBounds(cosine=0.999, overlap=0.9, near=0.02),
              shares_head=True),
    # Dynamic: weights signed and per channel, activations unsigned and measured as they come. An
    # integer tower of random weights ranks patches that hardly differ. A table has one scale per
    # row.
    Precision("int8", "_quantized", 8.1, _ALL, "int8", "q8", 1.6, _INT8,
              logits_cosine=0.95, table_cosine=0.99,
              vision=VisionBounds(cosine=0.99, overlap=0.8, near=0.1), note=_RUNS),
    # The same weights; the ranges of activations are measured once, on pictures of the user's.
    Precision("int8_static", "_int8_static", 8.1, ("vision",), "fp32", None, 1.6,
              "static_int8:StaticInt8", vision=VisionBounds(cosine=0.99, overlap=0.8, near=0.1),
              calibrated=True),
    # Blocks of 32 as the onnx-community layout has them; of 128 decode a little faster and lose
    # more.
    Precision("int4", "_q4", 5, _TEXT, "int4", "q4", 2.5, _INT4, 32, logits_cosine=0.5,
              table_cosine=0.95, selection=_COARSE, standard=False, shares_head=True),
    Precision("int4_b128", "_q4_b128", 4.25, _TEXT, "int4_b128", None, 2.5, _INT4, 128,
              logits_cosine=0.5, table_cosine=0.9, selection=_COARSE, standard=False,
              shares_head=True),
)}
# fmt: on
# Measured, of fp32 = 1: prefill takes 0.41 in 8 bits and 0.81 in 4, decoding 0.26 and 0.21.
PAIR = "int8+int4"
# The precision whose graphs the parity gate compares with the checkpoint: always built, kept if
# requested.
GATE_PRECISION = "fp32"


def names_for(part: Part, *, calibrated: bool = True) -> tuple[str, ...]:
    """Return the precisions that a kind of graph comes in; with ``calibrated`` false those alone
    that need no pictures."""
    return tuple(
        name
        for name, precision in PRECISIONS.items()
        if part in precision.parts and (calibrated or not precision.calibrated)
    )
