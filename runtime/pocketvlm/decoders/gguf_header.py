"""Knows what in a GGUF file's header would make llama.cpp end the process instead of reporting an
error.

Only what exports write is let through: any other setting is refused, since nobody has checked what
llama.cpp does with its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.artifact.specs import POSITION_AXES, DecoderSpec
from pocketvlm.decoders.gguf_file import (
    ALIGNMENT,
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    MAX_ITEMS,
    STRING,
    UINT32,
    Array,
    GgufFile,
    Tensor,
    read_file,
)
from pocketvlm.decoders.gguf_vocabulary import MERGES, TOKENS, check_vocabulary
from pocketvlm.errors import ArtifactError

MAX_LAYERS = 512  # llama.cpp's own limit
_MAX_NAME = 63  # characters of a tensor's name
_MOST_KERNEL = 1000
_MAX_WIDTH = 1 << 20  # of any dimension that is not a vocabulary

# Tensor types that a decoder's matrices may have: id -> (weights a block, bytes per block). Vectors
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
_CONTIGUOUS = ("llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "lfm2")
# Architectures with layers that are convolutions, which have no KV heads: these list the heads of
# each layer.
_HYBRID = ("lfm2",)
# By architecture how llama.cpp numbers per token, one of `pocketvlm.decoders.positions.POSITIONS`.
ARCHITECTURES = dict.fromkeys(_CONTIGUOUS, "contiguous") | dict.fromkeys(
    ("qwen2vl", "qwen3vl"), "mrope"
)
_JOINED_HEADS = ("qwen2vl",)  # llama.cpp takes their heads to make the hidden size, whatever is set
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_WIDTHS = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
)
_OPTIONAL_WIDTHS = (
    "vocab_size",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
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
    "rope.freq_base_swa",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
)
_OTHER = ("rope.scaling.type", "rope.scaling.finetuned")
_KV_HEADS, _KERNEL = "attention.head_count_kv", "shortconv.l_cache"
# Frequencies that time, rows and columns turn, and a fourth that nothing does: int32 (4,).
_SECTIONS, _NO_SECTIONS = "rope.dimension_sections", (0, 0, 0, 0)
# How many further features follow those of a picture's token, each added behind a layer.
_EXTRAS, _MOST_EXTRAS = "n_deepstack_layers", 16


@dataclass(frozen=True)
class GgufHeader:
    """The dimensions that a GGUF file states, checked against its own tensors' place in the file.

    An embedding that it reads is hidden x (1 + ``extras``) numbers wide. ``conv_layers`` and
    ``conv_width`` are as in `pocketvlm.artifact.specs.DecoderSpec`.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int
    extras: int = 0
    conv_layers: tuple[int, ...] = ()
    conv_width: int = 0

    @property
    def positions(self) -> str:
        """How the architecture numbers tokens; by others llama.cpp would read beyond its input."""
        return ARCHITECTURES[self.architecture]

    def check(self, name: str, *, context: int = 1, **expected: Any) -> None:
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


def expected_dimensions(spec: DecoderSpec) -> dict[str, Any]:
    """The dimensions in a manifest that `GgufHeader.check` compares a file of its artifact with."""
    names = ("layers", "kv_heads", "head_dim", "hidden", "vocab", "context", "positions")
    hybrid = ("conv_layers", "conv_width")
    stated = {name: getattr(spec, name) for name in (*names, *hybrid)}
    return stated | {"extras": len(spec.extras)}


def read_header(path: Path) -> GgufHeader:
    """Read and check a file's header: seconds at most, and nothing is allocated that the file does
    not contain.

    Raises:
        PocketVLMError: no GGUF file, a truncated one, or one that llama.cpp could not open safely.
    """
    file = read_file(path, frozenset({TOKENS, MERGES}))
    header = _dimensions(file)
    check_vocabulary(file)
    _check_tensors(file)
    return header


def _dimensions(file: GgufFile) -> GgufHeader:
    settings = file.settings
    kind, architecture = settings.get("general.architecture", (STRING, b"none"))
    if kind != STRING or (family := architecture.decode("ascii", "replace")) not in ARCHITECTURES:
        file.refuse(f"its architecture is not one of {', '.join(ARCHITECTURES)}")
    own = {
        name.removeprefix(f"{family}."): value
        for name, value in settings.items()
        if name.startswith(f"{family}.")
    }
    for name in settings:
        if not name.startswith((f"{family}.", "general.", "tokenizer.", "quantize.")):
            file.refuse(f"the setting {name} is not one that exports write")
    for name, (kind, value) in own.items():
        _check_setting(file, name, kind, value)
    for name in (*_WIDTHS, _KV_HEADS, "attention.layer_norm_rms_epsilon"):
        if name not in own:
            file.refuse(f"{family}.{name} is missing")
    if settings.get("general.alignment", (UINT32, ALIGNMENT)) != (UINT32, ALIGNMENT):
        file.refuse(f"its alignment is not {ALIGNMENT}")
    context, hidden, layers, _, heads = (own[name][1] for name in _WIDTHS)
    kv_heads, convolutions, kernel = _kinds_of_layers(file, family, layers, own)
    head_dim = own.get("attention.key_length", (0, hidden // heads))[1]
    rotated = own.get("rope.dimension_count", (0, head_dim))[1]
    sections = own[_SECTIONS][1].items if _SECTIONS in own else _NO_SECTIONS
    extras = own.get(_EXTRAS, (0, 0))[1]
    mrope = POSITION_AXES[ARCHITECTURES[family]] > 1
    rules = {
        f"{layers} layers": layers <= MAX_LAYERS,
        f"{heads} heads share {kv_heads} KV heads": heads % kv_heads == 0,
        f"{heads} heads in a width of {hidden}": heads * head_dim == hidden
        or (family not in _JOINED_HEADS and "attention.key_length" in own),
        "keys and values differ in width": own.get("attention.value_length", (0, head_dim))[1]
        == head_dim,
        f"{rotated} of {head_dim} dimensions are rotated": (
            rotated % 2 == 0 and (rotated <= head_dim if family == "phi3" else rotated == head_dim)
        ),
        # Behind the last layer it computes some tokens only, and adds the features of all.
        f"{family}.{_EXTRAS} are {extras} of {layers} layers": (
            extras <= min(layers - 1, _MOST_EXTRAS)
        ),
        # llama.cpp divides by their sum, and begins again where they do not fill a head.
        f"{family}.{_SECTIONS} are {list(sections)} for {rotated // 2} frequencies": (
            (_SECTIONS in own) == mrope
            and min(sections) >= sections[-1] == 0
            and sum(sections) == mrope * rotated // 2
        ),
    }
    for problem, holds in rules.items():
        if not holds:
            file.refuse(problem)
    vocab = settings.get(TOKENS, (0, Array(STRING, 0)))[1]
    length = vocab.length if isinstance(vocab, Array) else 0
    if own.get("vocab_size", (0, length))[1] != length or length == 0:
        file.refuse(f"a vocabulary of {length} tokens")
    return GgufHeader(
        family,
        layers,
        heads,
        kv_heads,
        head_dim,
        hidden,
        length,
        context,
        extras,
        conv_layers=convolutions,
        conv_width=kernel,
    )


def _kinds_of_layers(
    file: GgufFile, family: str, layers: int, own: Mapping[str, tuple[int, Any]]
) -> tuple[int, tuple[int, ...], int]:
    """KV heads of the layers that attend, the numbers of those that are convolutions, and how long
    their kernel is; (n, (), 0) of architectures that have none."""
    stated, kernel = own[_KV_HEADS][1], own.get(_KERNEL, (0, 0))[1]
    if family not in _HYBRID:
        if isinstance(stated, Array) or kernel:
            file.refuse(f"{family} has no layers of convolutions")
        return stated, (), 0
    heads = stated.items if isinstance(stated, Array) else ()
    if len(heads) != layers or len(set(heads) - {0}) != 1 or not 2 <= kernel <= _MOST_KERNEL:
        file.refuse(f"{layers} layers have the KV heads {list(heads)} and kernels of {kernel}")
    return max(heads), tuple(n for n, each in enumerate(heads) if each == 0), kernel


def _check_setting(file: GgufFile, name: str, kind: int, value: Any) -> None:
    """A setting of the architecture: known, of the right type and within what llama.cpp can
    compute with."""
    if name in (*_WIDTHS, *_OPTIONAL_WIDTHS):
        limit = MAX_ITEMS if name in _TOKEN_COUNTS else _MAX_WIDTH
        if kind != UINT32 or not 1 <= value <= limit:
            file.refuse(f"{name} is not a usable count")
    elif name == _KV_HEADS and kind == ARRAY:
        if value.kind != INT32 or any(not 0 <= each <= _MAX_WIDTH for each in value.items):
            file.refuse(f"{name} are not usable counts")
    elif name in (_KV_HEADS, _KERNEL):
        if kind != UINT32 or not 1 <= value <= _MAX_WIDTH:
            file.refuse(f"{name} is not a usable count")
    elif name in _NUMBERS:
        if kind != FLOAT32 or not math.isfinite(value) or value < 0:
            file.refuse(f"{name} is not a usable number")
    elif name == _EXTRAS:
        if kind != UINT32:
            file.refuse(f"{name} is not a usable count")
    elif name == _SECTIONS:
        if kind != ARRAY or (value.kind, value.length) != (INT32, len(_NO_SECTIONS)):
            file.refuse(f"{name} are not {len(_NO_SECTIONS)} whole numbers")
    elif name == "rope.scaling.type":
        if kind != STRING or value.decode("ascii", "replace") not in _ROPE_SCALINGS:
            file.refuse(f"{name} is not one of {', '.join(_ROPE_SCALINGS)}")
    elif name not in _OTHER or kind != BOOL:
        file.refuse(f"the setting {name} is not one that exports write")


def _check_tensors(file: GgufFile) -> None:
    """Every tensor follows the one before, aligned, and lies within the file."""
    expected = last = 0
    names = set[str]()
    for tensor in file.tensors:
        name, values = tensor.name, math.prod(tensor.shape)
        if len(name) > _MAX_NAME:
            file.refuse(f"the name of a tensor has {len(name)} characters")
        if name in names:
            file.refuse(f"{name} is in it twice")
        names.add(name)
        block, size = _block(file, tensor)
        if tensor.offset != expected:
            file.refuse(f"{name} lies at {tensor.offset}, expected at {expected}")
        last = values // block * size + tensor.offset
        expected += -(-values // block * size // ALIGNMENT) * ALIGNMENT
    if not file.tensors or file.data_start + last > file.size:
        file.refuse(f"its {len(file.tensors)} tensors do not fit its {file.size} bytes")


def _block(file: GgufFile, tensor: Tensor) -> tuple[int, int]:
    """Weights and bytes of a block of a tensor."""
    block, size = TENSOR_TYPES.get(tensor.kind, (0, 0))
    vector = math.prod(tensor.shape[1:]) == 1
    if (
        block == 0
        or 0 in tensor.shape
        or tensor.shape[0] % block
        or (vector and tensor.kind != F32)
    ):
        file.refuse(
            f"{tensor.name} {list(tensor.shape)} has the type {tensor.kind}, which a decoder's "
            "tensor of this shape cannot have"
        )
    return block, size
