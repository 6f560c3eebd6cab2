"""Knows a GGUF file's header, and what in it would make llama.cpp end the process instead of
reporting an error.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Only what exports write is
let through: any other setting is refused, since nobody has checked what llama.cpp does with its
values.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pocketvlm.artifact.manifest import POSITION_AXES, DecoderSpec
from pocketvlm.errors import ArtifactError

MAX_LAYERS = 512  # llama.cpp's own limit
_MAX_KEYS, _MAX_TENSORS, _MAX_ITEMS = 4096, 16_384, 4_000_000
_MAX_STRING, _MAX_NAME = 16 << 20, 63
_MAX_WIDTH = 1 << 20  # of any dimension that is no vocabulary
_ALIGNMENT = 32
_VERSIONS = (2, 3)

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_UINT32, _INT32, _FLOAT32, _BOOL = 4, 5, 6, 7

# Tensor types that a decoder's matrices may have: id -> (weights a block, bytes a block). Vectors
# are float32.
F32 = 0
TENSOR_TYPES = {
    F32: (1, 4),
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    30: (1, 2),  # BF16
}
_CONTIGUOUS = ("llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2")
# By architecture how llama.cpp numbers a token, one of `pocketvlm.decoders.positions.POSITIONS`.
ARCHITECTURES = dict.fromkeys(_CONTIGUOUS, "contiguous") | {"qwen2vl": "mrope"}
_TOKENIZERS = ("gpt2", "llama")  # byte-level BPE, SentencePiece
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_WIDTHS = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
)
_OPTIONAL_WIDTHS = (
    "vocab_size",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.scaling.original_context_length",
)
# Of these, the ones that count tokens and so may exceed `_MAX_WIDTH`.
_TOKEN_COUNTS = ("vocab_size", "context_length", "rope.scaling.original_context_length")
_NUMBERS = (
    "attention.layer_norm_rms_epsilon",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
)
_OTHER = ("rope.scaling.type", "rope.scaling.finetuned")
# Frequencies that time, rows and columns turn, and a fourth that nothing does: int32 (4,).
_SECTIONS, _NO_SECTIONS = "rope.dimension_sections", (0, 0, 0, 0)
# Arrays of a vocabulary, with the type of their items; those of _PER_TOKEN have one item a token.
_TOKENS = "tokenizer.ggml.tokens"
_PER_TOKEN = {
    _TOKENS: _STRING,
    "tokenizer.ggml.scores": _FLOAT32,
    "tokenizer.ggml.token_type": _INT32,
}
_VOCABULARY = _PER_TOKEN | {"tokenizer.ggml.merges": _STRING}


@dataclass(frozen=True)
class GgufHeader:
    """The dimensions that a GGUF file states, checked against its own tensors' place in the
    file."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int

    @property
    def positions(self) -> str:
        """How the architecture numbers tokens; by others llama.cpp would read beyond its input."""
        return ARCHITECTURES[self.architecture]

    def check(self, name: str, *, context: int = 1, **expected: int | str) -> None:
        """Raise `PocketVLMError` where a dimension or ``positions`` is not what a manifest says."""
        if context > self.context or context < 1:
            raise ArtifactError(
                f"{name} was made for {self.context} tokens, not {context}",
                advice="export it again",
            )
        for field, value in expected.items():
            if (stated := getattr(self, field)) != value:
                raise ArtifactError(
                    f"{name} has {field} {stated}, the manifest says {value}: files of two "
                    "artifacts are mixed",
                    advice="copy or export it again",
                )


@dataclass(frozen=True)
class _Array:
    """An array's item type and length; its items are read for the tokens and sections only."""

    kind: int
    length: int
    items: tuple[Any, ...] = ()


def expected_dimensions(spec: DecoderSpec) -> dict[str, Any]:
    """The dimensions in a manifest that `GgufHeader.check` compares a file of its artifact with."""
    return {
        name: getattr(spec, name)
        for name in ("layers", "kv_heads", "head_dim", "hidden", "vocab", "context", "positions")
    }


def read_header(path: Path) -> GgufHeader:
    """Read and check a file's header: seconds at most, and nothing is allocated that the file does
    not contain.

    Raises:
        PocketVLMError: no GGUF file, a truncated one, or one that llama.cpp could not open safely.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(path.name, data).header()
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ArtifactError(
            f"{path.name} cannot be read as GGUF ({error})", advice="copy or export it again"
        ) from error


class _Reader:
    """Walks over the mapped file; every step stays within it."""

    def __init__(self, name: str, data: mmap.mmap) -> None:
        self._name = name
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            self._refuse("its first bytes are not GGUF")
        if (version := self._number("<I")) not in _VERSIONS:
            self._refuse(f"its version is {version}, supported are {_VERSIONS}")
        tensors = self._count("tensors", _MAX_TENSORS)
        settings = dict(self._settings(self._count("settings", _MAX_KEYS)))
        header = self._dimensions(settings)
        self._check_vocabulary(settings)
        self._check_tensors(tensors)
        return header

    def _refuse(self, reason: str) -> NoReturn:
        raise ArtifactError(
            f"{self._name} is no sound GGUF file ({reason})", advice="copy or export it again"
        )

    def _take(self, size: int) -> bytes:
        start, end = self._at, self._at + size
        if end > len(self._data):
            self._refuse(f"it ends after {len(self._data)} bytes, inside its header")
        self._at = end
        return self._data[start:end]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("<Q")
        if count > limit:
            self._refuse(f"{count} {what}, at most {limit} are read")
        return count

    def _string(self, limit: int = _MAX_STRING) -> bytes:
        return self._take(self._count("bytes in a text", limit))

    def _name_of(self, what: str) -> str:
        try:
            name = self._string(limit=1024).decode("ascii")
        except UnicodeDecodeError:
            self._refuse(f"the name of a {what} is not ASCII")
        if not name:
            self._refuse(f"a {what} has no name")
        return name

    def _settings(self, count: int) -> Iterator[tuple[str, tuple[int, Any]]]:
        """(name, (type, value)) of each."""
        names: set[str] = set()
        for _ in range(count):
            name = self._name_of("setting")
            if name in names:
                self._refuse(f"{name} is set twice")
            names.add(name)
            kind = self._number("<I")
            yield name, (kind, self._value(name, kind))

    def _value(self, name: str, kind: int) -> Any:
        if kind in _SCALARS:
            if kind == _BOOL and (raw := self._number("<B")) > 1:
                self._refuse(f"{name} is a truth value of {raw}")
            elif kind == _BOOL:
                return bool(raw)
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            self._refuse(f"{name} has the unknown type {kind}")
        items = self._number("<I")
        length = self._count(f"items in {name}", _MAX_ITEMS)
        if name.endswith(_SECTIONS) and (items, length) == (_INT32, len(_NO_SECTIONS)):
            return _Array(items, length, struct.unpack(f"<{length}i", self._take(4 * length)))
        if items in _SCALARS:
            self._take(length * struct.calcsize(_SCALARS[items]))
            return _Array(items, length)
        if items != _STRING:
            self._refuse(f"{name} is an array of the type {items}")
        if name == _TOKENS:
            return _Array(items, length, tuple(self._string() for _ in range(length)))
        for _ in range(length):
            self._string()
        return _Array(items, length)

    def _dimensions(self, settings: dict[str, tuple[int, Any]]) -> GgufHeader:
        kind, architecture = settings.get("general.architecture", (_STRING, b"none"))
        if (
            kind != _STRING
            or (family := architecture.decode("ascii", "replace")) not in ARCHITECTURES
        ):
            self._refuse(f"its architecture is not one of {', '.join(ARCHITECTURES)}")
        own = {
            name.removeprefix(f"{family}."): value
            for name, value in settings.items()
            if name.startswith(f"{family}.")
        }
        for name in settings:
            if not name.startswith((f"{family}.", "general.", "tokenizer.", "quantize.")):
                self._refuse(f"the setting {name} is not one that exports write")
        for name, (kind, value) in own.items():
            self._check_setting(name, kind, value)
        for name in (*_WIDTHS, "attention.layer_norm_rms_epsilon"):
            if name not in own:
                self._refuse(f"{family}.{name} is missing")
        if settings.get("general.alignment", (_UINT32, _ALIGNMENT)) != (_UINT32, _ALIGNMENT):
            self._refuse(f"its alignment is not {_ALIGNMENT}")
        context, hidden, layers, _, heads, kv_heads = (own[name][1] for name in _WIDTHS)
        head_dim = own.get("attention.key_length", (0, hidden // heads))[1]
        rotated = own.get("rope.dimension_count", (0, head_dim))[1]
        sections = own[_SECTIONS][1].items if _SECTIONS in own else _NO_SECTIONS
        mrope = POSITION_AXES[ARCHITECTURES[family]] > 1
        rules = {
            f"{layers} layers": layers <= MAX_LAYERS,
            f"{heads} heads share {kv_heads} KV heads": heads % kv_heads == 0,
            f"{heads} heads in a width of {hidden}": heads * head_dim == hidden
            or (not mrope and "attention.key_length" in own),
            "keys and values differ in width": own.get("attention.value_length", (0, head_dim))[1]
            == head_dim,
            f"{rotated} of {head_dim} dimensions are rotated": (
                rotated % 2 == 0
                and (rotated <= head_dim if family == "phi3" else rotated == head_dim)
            ),
            # llama.cpp divides by their sum, and begins anew where they do not fill a head.
            f"{family}.{_SECTIONS} are {list(sections)} for {rotated // 2} frequencies": (
                (_SECTIONS in own) == mrope
                and min(sections) >= sections[-1] == 0
                and sum(sections) == mrope * rotated // 2
            ),
        }
        for problem, holds in rules.items():
            if not holds:
                self._refuse(problem)
        vocab = settings.get(_TOKENS, (0, _Array(_STRING, 0)))[1]
        length = vocab.length if isinstance(vocab, _Array) else 0
        if own.get("vocab_size", (0, length))[1] != length or length == 0:
            self._refuse(f"a vocabulary of {length} tokens")
        return GgufHeader(family, layers, heads, kv_heads, head_dim, hidden, length, context)

    def _check_setting(self, name: str, kind: int, value: Any) -> None:
        """A setting of the architecture: known, of the right type and within what llama.cpp can
        compute with."""
        if name in (*_WIDTHS, *_OPTIONAL_WIDTHS):
            limit = _MAX_ITEMS if name in _TOKEN_COUNTS else _MAX_WIDTH
            if kind != _UINT32 or not 1 <= value <= limit:
                self._refuse(f"{name} is no usable count")
        elif name in _NUMBERS:
            if kind != _FLOAT32 or not math.isfinite(value) or value < 0:
                self._refuse(f"{name} is no usable number")
        elif name == _SECTIONS:
            if kind != _ARRAY or (value.kind, value.length) != (_INT32, len(_NO_SECTIONS)):
                self._refuse(f"{name} are not {len(_NO_SECTIONS)} whole numbers")
        elif name == "rope.scaling.type":
            if kind != _STRING or value.decode("ascii", "replace") not in _ROPE_SCALINGS:
                self._refuse(f"{name} is not one of {', '.join(_ROPE_SCALINGS)}")
        elif name not in _OTHER or kind != _BOOL:
            self._refuse(f"the setting {name} is not one that exports write")

    def _check_vocabulary(self, settings: dict[str, tuple[int, Any]]) -> None:
        """llama.cpp aborts on a token that is in the list twice; it names empty ones by their
        place."""
        if settings.get("tokenizer.ggml.model", (0, b""))[1] not in [
            name.encode() for name in _TOKENIZERS
        ]:
            self._refuse(f"its tokenizer is not one of {', '.join(_TOKENIZERS)}")
        arrays = {name: value for name, (_, value) in settings.items() if isinstance(value, _Array)}
        for name, array in arrays.items():
            if name.startswith("tokenizer.") and array.kind != _VOCABULARY.get(name):
                self._refuse(f"{name} is an array of another type than exports write")
        tokens = arrays[_TOKENS].items
        for name in _PER_TOKEN:
            if name in settings and (name not in arrays or arrays[name].length != len(tokens)):
                self._refuse(f"{name} does not have an item for each of the {len(tokens)} tokens")
        if len({token or b"[EMPTY_%d]" % place for place, token in enumerate(tokens)}) != len(
            tokens
        ):
            self._refuse("a token is in its vocabulary twice")

    def _check_tensors(self, count: int) -> None:
        """Every tensor follows the one before, aligned, and lies within the file."""
        expected = last = 0
        for _ in range(count):
            name = self._name_of("tensor")
            if len(name) > _MAX_NAME:
                self._refuse(f"the name of a tensor has {len(name)} characters")
            shape = [
                self._count(f"values in {name}", _MAX_ITEMS)
                for _ in range(self._dimension_count(name))
            ]
            kind, offset = self._number("<I"), self._number("<Q")
            block, size = TENSOR_TYPES.get(kind, (0, 0))
            if (
                block == 0
                or 0 in shape
                or shape[0] % block
                or (math.prod(shape[1:]) == 1 and kind != F32)
            ):
                self._refuse(
                    f"{name} {shape} has the type {kind}, which a decoder's tensor of this shape "
                    f"cannot have"
                )
            if offset != expected:
                self._refuse(f"{name} lies at {offset}, expected at {expected}")
            expected += -(-math.prod(shape) // block * size // _ALIGNMENT) * _ALIGNMENT
            last = math.prod(shape) // block * size + offset
        start = -(-self._at // _ALIGNMENT) * _ALIGNMENT
        if count == 0 or start + last > len(self._data):
            self._refuse(f"its {count} tensors do not fit its {len(self._data)} bytes")

    def _dimension_count(self, name: str) -> int:
        if not 1 <= (count := self._number("<I")) <= 4:
            self._refuse(f"{name} has {count} dimensions")
        return int(count)
