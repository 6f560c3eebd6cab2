"""Knows what answering is expected to take on a device: bytes of files, and resident memory at its
peak."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pocketvlm_export.families import VisionSpec, VLMSpec
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_export.towers.attention import MAP_BYTES

# bytes: Python with this runtime, ONNX Runtime and the libraries beside it, nothing loaded
_BASELINE = 95e6
# Resident bytes for each byte on disk, where that is not the precision's own: of an embedding table
# only rows are read. A GGUF file is mapped, with llama.cpp's buffers beside it.
_RESIDENT_TABLE = 1.0
_RESIDENT_GGUF = 1.2
_TEXT = 256  # tokens of text beside a picture that are prefilled at once
_LIVE = 4  # tensors of a layer's width, and of its attention's map, that are alive together
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Opened:
    """A file that is open while answering: what it is, in which precision or type, its bytes on
    disk."""

    part: Literal["vision", "embed", "decoder", "gguf"]
    precision: str
    bytes: int

    @property
    def resident(self) -> int:
        """Bytes of memory that it is expected to take."""
        match self.part:
            case "embed":
                factor = _RESIDENT_TABLE
            case "gguf":
                factor = _RESIDENT_GGUF
            case _:
                factor = PRECISIONS[self.precision].resident
        return int(self.bytes * factor)


@dataclass(frozen=True)
class Footprint:
    """What a device holds while it answers about one picture until the context is full.

    Attributes:
        weights: resident bytes of the files that are open.
        cache: bytes of keys and values.
        activations: bytes of what is computed at once, in the tower or in prefill.
    """

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all, the process itself counted."""
        return int(_BASELINE) + self.weights + self.cache + self.activations


def estimate_footprint(
    spec: VLMSpec,
    files: Iterable[Opened],
    *,
    slots: int,
    tiles: int,
    context: int,
    onnx: bool,
    fused: bool = True,
) -> Footprint:
    """Estimate what answering takes at most: with a short conversation it is less, by most of the
    cache.

    Args:
        spec: the checkpoint.
        files: the graphs and GGUF files that are open.
        slots: visual tokens of the picture.
        tiles: tiles of it that the tower encodes at once.
        context: longest sequence in tokens.
        onnx: whether ONNX Runtime decodes, rather than llama.cpp.
        fused: whether no attention of the tower is written out over all patches of a picture,
            neither for a method that reads it nor for other engines.
    """
    decoder, vision = spec.decoder, spec.vision
    attending = decoder.layers - len(decoder.conv_layers)
    token = 2 * attending * decoder.kv_heads * decoder.head_dim
    # ONNX Runtime holds the cache of a step and of the one before in float32, llama.cpp one in
    # float16.
    cache = token * context * (2 * _FLOAT if onnx else _FLOAT // 2)
    prompt = min(context, slots + _TEXT)
    prefill = (
        _layer(prompt, decoder.hidden, decoder.config.intermediate_size, decoder.heads)
        + _FLOAT * decoder.vocab
    )
    by_blocks = vision.factor or (fused and _map(vision) > MAP_BYTES)
    encoding = tiles * (_tower_by_blocks(vision, fused) if by_blocks else _tower(vision))
    return Footprint(sum(file.resident for file in files), cache, max(prefill, encoding))


def _tower(vision: VisionSpec) -> int:
    tower = vision.dimensions
    return _layer(vision.sequence, tower.hidden, tower.intermediate, tower.heads)


def _map(vision: VisionSpec) -> int:
    """Bytes of a layer's attention, of all patches to all patches."""
    return _FLOAT * vision.dimensions.heads * vision.sequence**2


def _tower_by_blocks(vision: VisionSpec, fused: bool) -> int:
    """Bytes alive in a layer of a tower for pictures of many patches, of any size or of one whose
    map would be large.

    No map of all patches by all patches is made. Attention that is not fused is computed by blocks
    of queries, see `pocketvlm_export.towers.attention`, and a window's map is small.
    """
    tower, patches = vision.dimensions, vision.sequence
    whole = 0 if fused else min(_map(vision), MAP_BYTES)
    windows = _FLOAT * tower.heads * patches * tower.window if tower.windowed_layers else 0
    values = _LIVE * tower.hidden + tower.mlp_matrices * tower.intermediate
    return _LIVE * max(whole, windows) + _FLOAT * patches * values


def _layer(tokens: int, hidden: int, intermediate: int, heads: int) -> int:
    """Bytes alive in one transformer layer over so many tokens."""
    return _FLOAT * (_LIVE * tokens * (hidden + heads * tokens) + 2 * tokens * intermediate)
