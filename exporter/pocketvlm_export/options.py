"""Knows what can be asked of an export and which requests make no sense; imports neither torch nor
transformers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pocketvlm.artifact import metadata
from pocketvlm.artifact.stages import Stage, in_order
from pocketvlm.errors import RequestError
from pocketvlm.files import user_path
from pocketvlm.layouts import MEDIA, Medium
from pocketvlm.limits import settle_numbers, whole
from pocketvlm_export.caps import Caps
from pocketvlm_export.gguf_types import DEFAULT_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.precisions import PAIR, PRECISIONS, names_for
from pocketvlm_targets import DECODERS, FORMATS

GATE_PROMPT = "What is in the picture?"


_VISION_KINDS = (metadata.VISION_ENCODER, metadata.CANDIDATES, metadata.SELECTOR)


@dataclass(frozen=True)
class ExportOptions:
    """What to export; the first value of each list is the artifact's default.

    >>> from pocketvlm_export import ExportOptions
    >>> options = ExportOptions("scope", budgets=(14,), vision_precisions=("int8",))
    >>> options.decoder_precisions
    ('fp32',)
    >>> ExportOptions(decoder_precisions=("int3",))
    Traceback (most recent call last):
    pocketvlm.errors.RequestError: decoder precision 'int3' is unknown: choose from fp32, ...

    Attributes:
        pruner: name of a method in `pocketvlm_export.pruning`; None for the family's default.
        pruner_options: the method's own options, as text.
        budgets: visual tokens kept per picture or per tile, a graph each; empty for the method's
            default.
        total_budgets: instead, visual tokens of a whole picture at most, where it is cut into the
            most tiles.
        layout: how pictures become tiles, one of the family's names for it; None for its default.
        caps: how large pictures may be.
        image_size: (height, width) in pixels of every picture or tile, for towers with learnt
            positions, which are interpolated; None for the checkpoint's own.
        merge_dropped: average each token that the method drops into the kept one most like it.
        tower_stages: layers of the vision tower before which patches are dropped, ascending.
        decoder_stages: layers of the decoder before which visual tokens are dropped, ascending.
        decoder_scores: whether the decoder's graphs also say what their attention pays to each
            token, so that the artifact can guide a larger one.
        decoder: a key of `pocketvlm_targets.DECODERS`.
        vision_precisions: keys of `PRECISIONS`, of the vision graphs.
        decoder_precisions: keys of `PRECISIONS`, of the decoder's ONNX graphs.
        calibration: folder with pictures on which the activations of a calibrated precision are
            measured; None where no precision is.
        embed_precisions: of the embedding tables; empty for those that go with the decoder's.
        shared_tables: whether a table tied to the decoder's head is stored once, in the decoder's
            file; transformers.js in a page needs it in its own.
        gguf_types: keys of `GGUF_TYPES`, a file each where the decoder is for llama.cpp; empty for
            `DEFAULT_GGUF_TYPE`.
        portable: standard ONNX operators alone, for other engines than ONNX Runtime.
        portable_vision: the same of the vision graphs alone, for execution providers that take
            such graphs whole.
        format: of the graph files, one of `pocketvlm_targets.FORMATS`.
        context: longest sequence in tokens, at most the checkpoint's own; None is that.
        memory_limit: MB (10^6 bytes) that answering may be expected to take on the device; None or
            0 means no limit.
        media: what the artifact reads, pictures or clips or both; the first is its default. Empty
            for the family's default.
        revision: branch, tag or commit of a hub checkpoint.
        overwrite: replace an artifact that is already at the destination.
        keep_failed: where an artifact that failed the parity gate is kept for inspection.
    """

    pruner: str | None = None
    pruner_options: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    total_budgets: tuple[int, ...] = ()
    layout: str | None = None
    caps: Caps = field(default_factory=Caps)
    image_size: tuple[int, int] | None = None
    merge_dropped: bool = False
    tower_stages: tuple[Stage, ...] = ()
    decoder_stages: tuple[Stage, ...] = ()
    decoder_scores: bool = False
    decoder: str = "onnx"
    vision_precisions: tuple[str, ...] = ("fp32",)
    decoder_precisions: tuple[str, ...] = ("fp32",)
    embed_precisions: tuple[str, ...] = ()
    shared_tables: bool = True
    gguf_types: tuple[str, ...] = ()
    portable: bool = False
    portable_vision: bool = False
    format: str = "onnx"
    context: int | None = None
    memory_limit: int | None = None
    media: tuple[Medium, ...] = ()
    revision: str | None = None
    overwrite: bool = False
    keep_failed: Path | None = None
    calibration: Path | None = None

    def __post_init__(self) -> None:
        self._settle()
        if self.budgets and self.total_budgets:
            raise RequestError(
                f"--budget {self.budgets[0]} is per tile, --total-budget {self.total_budgets[0]} "
                "of a whole picture",
                advice="give one of them",
                setting="total_budget",
            )
        _check_names("decoder", (self.decoder,), DECODERS, "decoder")
        _check_names(
            "vision precision", self.vision_precisions, names_for("vision"), "vision_precision"
        )
        _check_names(
            "decoder precision", self.decoder_precisions, names_for("decoder"), "decoder_precision"
        )
        _check_names("embedding precision", self.embed, names_for("embed"), "embed_precision")
        _check_names("format", (self.format,), FORMATS, "graph_format")
        _check_names("medium", self.media or MEDIA, MEDIA, "media")
        _check_names("GGUF type", self.gguf_types or (DEFAULT_GGUF_TYPE,), GGUF_TYPES, "gguf_type")
        self._check_calibration()
        if self.portable:
            self._check_portable()
        if self.gguf_types and "llama.cpp" not in self.engines:
            raise RequestError(
                f"GGUF type {self.gguf_types[0]} is for llama.cpp",
                advice="give --decoder llama.cpp or both",
                setting="gguf_type",
            )
        if self.decoder_stages and "llama.cpp" in self.engines:
            raise RequestError(
                "a decoder stage drops tokens between layers, and llama.cpp's cache has one length "
                "for all of them",
                advice="give --decoder onnx, or prune in the vision graph alone, without "
                "--decoder-stage",
                setting="decoder",
            )
        if self.decoder_scores:
            self._check_scores()
        if "onnx" not in self.engines:
            self._check_no_precision()

    def _settle(self) -> None:
        """Numbers and paths as Python's own; refuses what is not a number."""
        for name in ("budgets", "total_budgets"):
            given = getattr(self, name)
            if not isinstance(given, Iterable):
                raise RequestError(
                    f"{name} is of type {type(given).__name__}",
                    expected="whole numbers",
                    advice="give a tuple of them",
                    setting=name.removesuffix("s"),
                )
            object.__setattr__(self, name, tuple(given))
        settle_numbers(self)
        for name in ("tower_stages", "decoder_stages"):
            stages = _stages(getattr(self, name), name.removesuffix("s"))
            object.__setattr__(self, name, stages)
        for setting, values in (
            ("budget", self.budgets),
            ("total_budget", self.total_budgets),
            ("context", () if self.context is None else (self.context,)),
            ("memory_limit", () if self.memory_limit is None else (self.memory_limit,)),
        ):
            for value in values:
                whole(value, setting)
        self._settle_size()
        if self.keep_failed is not None:
            object.__setattr__(self, "keep_failed", user_path(self.keep_failed))
        if self.calibration is not None:
            object.__setattr__(self, "calibration", user_path(self.calibration))

    def _settle_size(self) -> None:
        """Make ``image_size`` two numbers; one alone is both edges of a square."""
        size = self.image_size
        if size is None:
            return
        edges = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        if len(edges) != 2 or min(whole(edge, "image_size") for edge in edges) < 1:
            raise RequestError(
                f"--image-size is {size}",
                expected="a height and a width in pixels, or one number for both",
                setting="image_size",
            )
        object.__setattr__(self, "image_size", edges)

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that the artifact's decoder is for, the preferred one first."""
        return DECODERS[self.decoder]

    @property
    def default_precisions(self) -> dict[str, str]:
        """Of each engine, the decoder's precision or GGUF type that answers by default."""
        return {engine: names[0] for engine, names in self.by_engine.items()}

    @property
    def by_engine(self) -> dict[str, tuple[str, ...]]:
        """Of each engine, the precisions or GGUF types of its decoder, the default first."""
        every = {"onnx": self.decoder_precisions, "llama.cpp": self.gguf}
        return {engine: every[engine] for engine in self.engines}

    @property
    def pair(self) -> str:
        """The ONNX decoders that answer together where memory allows both; none where the default
        is neither of them."""
        halves = PAIR.split("+")
        stated = "onnx" in self.engines and set(halves) <= set(self.decoder_precisions)
        return PAIR if stated and self.decoder_precisions[0] in halves else ""

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

    def standard(self, kind: str) -> bool:
        """Whether a graph of this kind, one of `metadata.GRAPH_KINDS`, has standard operators
        alone."""
        return self.portable or (self.portable_vision and kind in _VISION_KINDS)

    @property
    def gguf(self) -> tuple[str, ...]:
        """Types of the GGUF files to publish, the default first; none where llama.cpp is not asked
        for."""
        return (self.gguf_types or (DEFAULT_GGUF_TYPE,)) if "llama.cpp" in self.engines else ()

    def _check_portable(self) -> None:
        """Refuse what standard operators cannot express."""
        if self.format == "ort":
            raise RequestError(
                "--portable asks for standard operators, --format ort for files that only ONNX "
                "Runtime reads",
                advice="choose one",
                setting="portable",
            )
        standard = [name for name, precision in PRECISIONS.items() if precision.standard]
        for setting, names in (
            ("decoder_precision", self.decoder_precisions),
            ("embed_precision", self.embed),
        ):
            for name in names:
                if name not in standard:
                    raise RequestError(
                        f"precision {name} needs ONNX Runtime's own operators, --portable keeps "
                        "to standard ones",
                        advice=f"choose from {', '.join(standard)}",
                        setting=setting,
                    )

    def _check_calibration(self) -> None:
        """Refuse a calibrated precision without pictures, and pictures that none needs."""
        calibrated = [name for name in self.vision_precisions if PRECISIONS[name].calibrated]
        if calibrated and self.calibration is None:
            raise RequestError(
                f"vision precision {calibrated[0]} is calibrated on pictures, and none are given",
                advice="give --calibration FOLDER with pictures like those to be asked about",
                setting="calibration",
            )
        if self.calibration is not None and not calibrated:
            names = [name for name, precision in PRECISIONS.items() if precision.calibrated]
            raise RequestError(
                f"--calibration {self.calibration} is for vision precisions that are calibrated",
                advice=f"add --vision-precision {', '.join(names)}, or leave it out",
                setting="calibration",
            )

    def _check_scores(self) -> None:
        """Refuse what a decoder that scores tokens cannot be."""
        for why, holds in {
            "llama.cpp does not say what attention pays to each token": (
                "llama.cpp" in self.engines
            ),
            "a decoder that drops tokens on its way has nothing to say of those": (
                bool(self.decoder_stages)
            ),
        }.items():
            if holds:
                raise RequestError(
                    f"--decoder-scores: {why}",
                    advice="leave one of them out",
                    setting="decoder_scores",
                )

    def _check_no_precision(self) -> None:
        """Refuse precisions of decoders that are not written. Whether there is a table depends on
        the method, and is refused where that is planned."""
        if self.decoder_precisions != ("fp32",):
            raise RequestError(
                f"decoder precision {self.decoder_precisions[0]} is for ONNX Runtime, the decoder "
                "is for llama.cpp",
                advice="give --gguf-type instead",
                setting="decoder_precision",
            )


def _stages(given: object, setting: str) -> tuple[Stage, ...]:
    """Return the stages of a request; refuses what is none, and layers and keeps in no order."""
    stages = tuple(given) if isinstance(given, Iterable) else (given,)
    flag = f"--{setting.replace('_', '-')}"
    if not all(isinstance(stage, Stage) for stage in stages):
        raise RequestError(
            f"{setting} holds {stages}",
            expected="stages",
            advice="give a tuple of them",
            setting=setting,
        )
    if not in_order(stages):
        raise RequestError(
            f"{flag} {' '.join(map(str, stages))} does not keep fewer tokens layer by layer",
            advice="name the stages by layer, each with fewer tokens than the one before",
            setting=setting,
        )
    return stages


def _check_names(
    what: str, names: tuple[str, ...], supported: Collection[str], setting: str
) -> None:
    for name in names:
        if name not in supported:
            raise RequestError(
                f"{what} {name!r} is unknown",
                advice=f"choose from {', '.join(supported)}",
                setting=setting,
            )
    if not names or len(set(names)) != len(names):
        raise RequestError(
            f"{what}s {list(names)} are empty or repeated",
            advice="name each one once",
            setting=setting,
        )


def check_budgets(budgets: tuple[int, ...], tokens: int, default: int) -> tuple[int, ...]:
    """Return the budgets to export for a tower that makes ``tokens`` tokens, ``(default,)`` where
    none is asked.

    Raises:
        RequestError: a budget lies outside 1..``tokens``, or is named twice.
    """
    chosen = budgets or (default,)
    for budget in chosen:
        if not 1 <= budget <= tokens:
            raise RequestError(
                f"budget {budget} is outside 1..{tokens}, the visual tokens that this checkpoint "
                "makes of a picture or tile",
                advice=f"give at most {tokens}" if budget > tokens else "give at least 1",
                setting="budget",
            )
    if len(set(chosen)) != len(chosen):
        raise RequestError(
            f"budgets {list(chosen)} repeat a value",
            advice="name each one once",
            setting="budget",
        )
    return chosen
