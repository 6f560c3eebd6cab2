"""Knows what can be asked of an export and which requests make no sense; imports neither torch nor
transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pocketvlm.artifact.manifest import FastV
from pocketvlm.errors import RequestError
from pocketvlm_export.precisions import PRECISIONS, names_for

# What --decoder can be told, and the engines that an artifact then serves, the preferred one first.
DECODERS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx",),
    "llama.cpp": ("llama.cpp",),
    "both": ("onnx", "llama.cpp"),
}
GGUF_TYPES = ("f32", "f16", "q8_0", "q4_0", "q4_k_m")
DEFAULT_GGUF_TYPE = "q8_0"
# The type that the parity gate holds against the checkpoint, and that quantized ones are made of.
GATE_GGUF_TYPE = "f32"
GATE_PROMPT = "What is in the picture?"
# Files that a graph can be: ONNX for every build of ONNX Runtime, its own format for reduced ones.
FORMATS = ("onnx", "ort")


@dataclass(frozen=True)
class ExportOptions:
    """What to export; the first value of each list is the artifact's default.

    Attributes:
        pruner: name of a method in `pocketvlm_export.pruning`.
        pruner_options: the method's own options, as text.
        budgets: visual tokens kept of a picture or of each of its tiles, a graph each; empty for
            the method's default.
        total_budgets: instead, visual tokens of a whole picture at most, where it is cut into the
            most tiles.
        layout: how pictures become tiles, one of the family's names for it; None for its default.
        fastv: visual tokens that the decoder drops between two of its layers; None for none.
        decoder: a key of `DECODERS`.
        vision_precisions, decoder_precisions: keys of `PRECISIONS`; the decoder's are those of its
            graphs.
        embed_precisions: of the embedding tables; empty for those that go with the decoder's.
        gguf_types: of `GGUF_TYPES`, a file each where the decoder is for llama.cpp; empty for
            `DEFAULT_GGUF_TYPE`.
        portable: standard ONNX operators alone, for other engines than ONNX Runtime.
        format: of the graph files, one of `FORMATS`.
        context: longest sequence in tokens, at most the checkpoint's own; None is that.
        memory_limit: MB (10^6 bytes) that answering may be expected to take on the device; None or
            0 is no limit.
        revision: branch, tag or commit of a hub checkpoint.
        overwrite: replace an artifact that is already at the destination.
        keep_failed: where an artifact that failed the parity gate is kept for inspection.
    """

    pruner: str = "fastervlm"
    pruner_options: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    total_budgets: tuple[int, ...] = ()
    layout: str | None = None
    fastv: FastV | None = None
    decoder: str = "onnx"
    vision_precisions: tuple[str, ...] = ("fp32",)
    decoder_precisions: tuple[str, ...] = ("fp32",)
    embed_precisions: tuple[str, ...] = ()
    gguf_types: tuple[str, ...] = ()
    portable: bool = False
    format: str = "onnx"
    context: int | None = None
    memory_limit: int | None = None
    revision: str | None = None
    overwrite: bool = False
    keep_failed: Path | None = None

    def __post_init__(self) -> None:
        if self.budgets and self.total_budgets:
            raise RequestError(
                (
                    f"--budget {self.budgets[0]} is of a tile, --total-budget "
                    f"{self.total_budgets[0]} of a whole picture"
                ),
                advice="give one of them",
            )
        _check_known("decoder", (self.decoder,), tuple(DECODERS))
        _check_known("vision precision", self.vision_precisions, names_for("vision"))
        _check_known("decoder precision", self.decoder_precisions, names_for("decoder"))
        _check_known("embedding precision", self.embed, names_for("embed"))
        if self.portable and self.format == "ort":
            raise RequestError(
                (
                    "--portable asks for standard operators, --format ort for files only ONNX "
                    "Runtime reads"
                ),
                advice="choose one",
            )
        if self.portable:
            _check_standard((*self.decoder_precisions, *self.embed))
        _check_known("format", (self.format,), FORMATS)
        _check_known("GGUF type", self.gguf_types or (DEFAULT_GGUF_TYPE,), GGUF_TYPES)
        if self.gguf_types and "llama.cpp" not in self.engines:
            raise RequestError(
                f"GGUF type {self.gguf_types[0]} is for llama.cpp",
                advice="give --decoder llama.cpp or both",
            )
        if self.fastv and "llama.cpp" in self.engines:
            raise RequestError(
                (
                    "FastV drops tokens between two layers, and llama.cpp's cache has one length "
                    "for all of them"
                ),
                advice=(
                    "give --decoder onnx, or prune in the vision graph alone, without "
                    "--fastv-layer and --fastv-keep"
                ),
            )
        if "onnx" not in self.engines:
            for what, given in (
                ("decoder", self.decoder_precisions),
                ("embedding", self.embed_precisions),
            ):
                if given not in ((), ("fp32",)):
                    raise RequestError(
                        (
                            f"{what} precision {given[0]} is for ONNX Runtime, the decoder is for "
                            "llama.cpp"
                        ),
                        advice="give --gguf-type instead",
                    )

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that the artifact's decoder is for, the preferred one first."""
        return DECODERS[self.decoder]

    @property
    def default_precisions(self) -> dict[str, str]:
        """Of each engine, the decoder's precision or GGUF type that answers by default."""
        first = {"onnx": self.decoder_precisions[0], "llama.cpp": next(iter(self.gguf), "")}
        return {engine: first[engine] for engine in self.engines}

    @property
    def embed(self) -> tuple[str, ...]:
        """Precisions of the embedding tables to publish, the default first."""
        return self.embed_precisions or tuple(
            dict.fromkeys(PRECISIONS[name].table for name in self.decoder_precisions)
        )

    def table(self, decoder: str) -> str:
        """Return the precision of the table that a decoder of this precision reads."""
        own = PRECISIONS[decoder].table
        return own if own in self.embed or decoder not in self.decoder_precisions else self.embed[0]

    @property
    def gguf(self) -> tuple[str, ...]:
        """Types of the GGUF files to publish, the default first; none where llama.cpp is not asked
        for."""
        return (self.gguf_types or (DEFAULT_GGUF_TYPE,)) if "llama.cpp" in self.engines else ()


def _check_standard(precisions: tuple[str, ...]) -> None:
    for name in precisions:
        if not PRECISIONS[name].standard:
            raise RequestError(
                (
                    f"precision {name} needs ONNX Runtime's own operators, --portable keeps to "
                    "standard ones"
                ),
                advice=(
                    "choose from "
                    f"{', '.join(name for name, known in PRECISIONS.items() if known.standard)}"
                ),
            )


def _check_known(what: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise RequestError(
                f"{what} {value!r} is unknown", advice=f"choose from {', '.join(known)}"
            )
    if not values or len(set(values)) != len(values):
        raise RequestError(
            f"{what}s {list(values)} are empty or repeated", advice="name each one once"
        )


def check_budgets(budgets: tuple[int, ...], tokens: int, default: int) -> tuple[int, ...]:
    """Return the budgets to export for a tower that makes ``tokens`` tokens, ``(default,)`` where
    none is asked.

    Raises:
        PocketVLMError: a budget lies outside 1..``tokens``, or is named twice.
    """
    chosen = budgets or (default,)
    for budget in chosen:
        if not 1 <= budget <= tokens:
            raise RequestError(
                f"budget {budget} is outside 1..{tokens}",
                advice=f"this checkpoint makes {tokens} visual tokens a picture",
            )
    if len(set(chosen)) != len(chosen):
        raise RequestError(f"budgets {list(chosen)} repeat a value", advice="name each one once")
    return chosen
