"""Knows every private or experimental API of other libraries that the exporter relies on.

A release that changes one of them breaks this module and its tests, and nothing else. Each entry
states what it is, why the public API does not do, and the versions that it was tried with. What
counts as private here: names with an underscore, modules that a library's documentation does not
list, arguments that it calls internal, and functions that it calls experimental.

Tried with torch 2.13, transformers 5.23, onnxruntime 1.31, onnxscript 0.7 and huggingface_hub 2.4,
unless an entry says otherwise. Everything that is slow to import is imported inside
the function that needs it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from huggingface_hub.errors import HTTPError as HubTransportError
from torch import nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import LinearAttentionLayer

__all__ = [
    "TRACER_LOGGER",
    "HubTransportError",
    "assume",
    "cache_of",
    "cached_layers",
    "convert_to_ort",
    "fill",
    "fuse_norms",
    "fuse_skip_norms",
    "greedy_processors",
    "image_prompt",
    "int8_range",
    "model_class",
    "pack_image_features",
    "pack_onevision_features",
    "picture_masks",
    "quantize_4bit",
    "quantize_int8",
    "recorded_attention",
    "recording_attention",
    "rope_frequencies",
    "rope_positions",
    "run_decoder_layer",
    "stretched_positions",
    "tile_grid",
    "window_order",
    "write_required_operators",
]

# Where the imports above come from, and why:
#
# - ``HubTransportError`` is the HTTP client's base class of timeouts and broken transfers. The
#   client changed from requests to httpx to httpx2; huggingface_hub.errors always has its class.
# - ``LinearAttentionLayer`` is how a layer with a convolution is cached; see `cache_of`.

TRACER_LOGGER = "torch.onnx._internal.exporter._registration"
"""Logger that warns of each torchvision operator that is not installed, at every export."""


def model_class(family: str, name: str) -> Any:
    """Return a class or function of the module of a model in transformers, as in ``("llava",
    "LlavaMultiModalProjector")``.

    Projectors and their like are documented nowhere: transformers exports whole models only, and
    building a whole model to use a projector would take the memory of all of it.
    """
    module = import_module(f"transformers.models.{family}.modeling_{family}")
    try:
        return getattr(module, name)
    except AttributeError:  # another release; as an import statement would say it
        raise ImportError(f"cannot import name {name!r} from {module.__name__!r}") from None


def assume(condition: Any) -> None:
    """Promise the tracer that a condition on a size known only at run time holds (`torch._check`).

    A size that comes from ``Tensor.item()`` has no bounds: without them a slice of the last of so
    many rows is not known to be one row, and the graph's axes become expressions. The constraints
    of ``torch.export`` that are public are for inputs only.
    """
    torch._check(condition)


def cache_of(past: Sequence[tuple[torch.Tensor, ...]]) -> Cache:
    """Return a cache that holds of each layer what `cached_layers` gives.

    ``ddp_cache_data`` is meant for torch's distributed training. `DynamicCache.update`, the public
    way, would trace a concatenation with nothing for each layer.

    What a convolution's layer holds has no public way in at all. Such a layer usually copies its
    state in place, which no graph does; while it "records the past" it makes a longer one instead.
    """
    if all(len(layer) == 2 for layer in past):
        return DynamicCache(ddp_cache_data=past)
    layers: list[Any] = []
    for tensors in past:
        if len(tensors) == 2:
            layers += DynamicCache(ddp_cache_data=[tensors]).layers
            continue
        (state,) = tensors
        layer = LinearAttentionLayer()
        layer.lazy_initialization(conv_states=state)
        layer.conv_states[0], layer.has_previous_state[0] = state, True
        layer.activate_past_recording()
        layers.append(layer)
    return Cache(layers=layers)


def cached_layers(cache: Cache) -> list[tuple[torch.Tensor, ...]]:
    """Return what each layer of a cache holds: (key, value), (B, kv_heads, tokens, head_dim) each,
    or of a convolution its last inputs alone, (B, hidden, width).

    ``layers`` and what lies in them have no documentation; iterating over the cache is deprecated.
    """
    return [
        (layer.conv_states[0][..., -layer.conv_kernel_size[0] :],)
        if isinstance(layer, LinearAttentionLayer)
        else (layer.keys, layer.values)
        for layer in cache.layers
    ]


def run_decoder_layer(
    layer: nn.Module,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    cache: DynamicCache,
) -> torch.Tensor:
    """Run one layer of a causal language model of the Llama kind; the signature is internal.

    Args:
        layer: of ``model.model.layers``.
        hidden: (B, S, hidden).
        mask: added to attention's products, (B, 1, S, past + S).
        angles: cosines and sines as ``model.model.rotary_emb`` gives them.
        cache: grows by the layer's keys and values.
    """
    output: torch.Tensor = layer(
        hidden,
        attention_mask=mask,
        position_embeddings=angles,
        past_key_values=cache,
        use_cache=True,
    )
    return output


def fill(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    state: dict[str, torch.Tensor],
    attention: str,
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Build a model around tensors that are loaded already; returns it and what did not fit.

    ``from_pretrained(None, state_dict=...)`` is how transformers loads GGUF files into itself: the
    parameters are never allocated, so that the weights are in memory once. The second value has
    ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.
    """
    model, info = cls.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    return model, info


_RECORDED = "pocketvlm_recorded"
# The layers whose maps are recorded now, each with the first that is; none outside of
# `recorded_attention`.
_recordings: list[tuple[dict[int, list[torch.Tensor]], int | None]] = []


def recording_attention() -> str:
    """Return the name of an attention implementation of transformers that `recorded_attention`
    records, for loading a model with.

    It works for every family: all of transformers' models call a registered function for attention,
    while only some return maps. It computes as their eager attention does.
    """
    import transformers
    from transformers.masking_utils import eager_mask

    transformers.AttentionInterface.register(_RECORDED, _attend)
    transformers.AttentionMaskInterface.register(_RECORDED, eager_mask)
    return _RECORDED


@contextmanager
def recorded_attention(first: int | None) -> Iterator[Mapping[int, Sequence[torch.Tensor]]]:
    """Record the attention of a model loaded with `recording_attention`, for one run of it.

    Gives the softmaxed maps of each layer that has run, in that order: float32 (heads, queries,
    keys) of the only row of the batch, more than one where a layer computes windows one by one.
    Layers before number ``first`` leave theirs empty, all of them where it is None: maps are large.
    The keys mean nothing.
    """
    layers: dict[int, list[torch.Tensor]] = {}
    _recordings.append((layers, first))
    try:
        yield layers
    finally:
        _recordings.pop()


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    products = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        products = products + attention_mask
    maps = products.softmax(dim=-1, dtype=torch.float32)
    for layers, first in _recordings[-1:]:
        recorded = layers.setdefault(id(module), [])
        if first is not None and len(layers) > first:
            recorded.append(maps[0])
    return torch.matmul(maps.to(value.dtype), value).transpose(1, 2).contiguous(), None


def rope_frequencies(config: PretrainedConfig, kind: str) -> tuple[torch.Tensor, float]:
    """Return the rotary frequencies of a configuration, float32 (head_dim / 2,), and the factor
    that cosines and sines are multiplied by.

    ``modeling_rope_utils`` is a module for transformers' own models.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
    return frequencies, float(factor)


def pack_image_features(
    config: PretrainedConfig, tiles: torch.Tensor, size: tuple[int, int], newline: torch.Tensor
) -> torch.Tensor:
    """Return what LLaVA-NeXT reads of one picture: (tiles, N, C) -> (slots, C).

    ``size`` is (height, width) of the picture in pixels, ``newline`` (C,) ends each row. The method
    belongs to a model with all its weights, of which it reads the configuration alone: an object
    with nothing else takes the model's place.
    """
    model = model_class("llava_next", "LlavaNextModel")
    (features,), _ = model.pack_image_features(
        SimpleNamespace(config=config), [tiles], [size], "default", image_newline=newline
    )
    packed: torch.Tensor = features
    return packed


def picture_masks(
    config: PretrainedConfig, inputs_embeds: torch.Tensor, is_visual: torch.Tensor
) -> Mapping[str, torch.Tensor]:
    """Return the attention masks of a whole prompt as Gemma 3 makes them, one for each kind of
    layer, (1, 1, n, n) each; pictures are what neighbours each other in ``is_visual`` (n,).

    Helpers of transformers' model, which makes them of ``token_type_ids`` before it calls its
    decoder.
    """
    numbers = model_class("gemma3", "get_block_sequence_ids_for_mask")
    masks: Mapping[str, torch.Tensor] = model_class("gemma3", "create_masks_for_vision_model")(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        block_sequence_ids=numbers(is_visual.long()[None]),
    )
    return masks


def pack_onevision_features(
    config: PretrainedConfig,
    tiles: torch.Tensor,
    size: tuple[int, int],
    newline: torch.Tensor,
    aspect_ratio: str,
) -> torch.Tensor:
    """As `pack_image_features`, of LLaVA-OneVision: its method has a limit in ``aspect_ratio``, as
    in ``anyres_max_9``, and takes a single tile for one of several pictures."""
    model = model_class("llava_onevision", "LlavaOnevisionModel")
    (features,), _ = model.pack_image_features(
        SimpleNamespace(config=config), [tiles], [size], newline, aspect_ratio
    )
    packed: torch.Tensor = features
    return packed


def tile_grid(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], edge: int
) -> tuple[int, int]:
    """Return the rows and columns of tiles, ``edge`` pixels each, that LLaVA-NeXT cuts a picture
    of ``size`` (height, width) into; a helper of transformers' model."""
    shape = model_class("llava_next", "get_anyres_image_grid_shape")
    rows, columns = shape(size, pinpoints, edge)
    return int(rows), int(columns)


def image_prompt(
    rows: int, columns: int, slots: int, around: str, image_token: str, whole: str
) -> str:
    """Return the text that SmolVLM's processor writes in place of a picture of so many tiles.

    ``around`` comes before and behind each tile, ``whole`` marks the picture in one piece. It is a
    function of the processor's module; the processor itself also prepares the pixels.
    """
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    text: str = get_image_prompt_string(rows, columns, slots, around, image_token, whole)
    return text


def rope_positions(
    model: Any,
    config: PretrainedConfig,
    ids: npt.NDArray[np.int64],
    is_image: npt.NDArray[np.bool_],
    grid: tuple[int, int, int],
) -> npt.NDArray[np.int64]:
    """Return the positions of a prompt about one picture as Qwen's models number them: int64 (3,
    n).

    ``grid`` are the frames, rows and columns of the picture's patches. The method belongs to the
    class ``model`` with all its weights, of which it reads the configuration alone.
    """
    stand_in = SimpleNamespace(config=config)
    stand_in.get_vision_position_ids = lambda *arguments, **options: model.get_vision_position_ids(
        stand_in, *arguments, **options
    )
    positions, _ = model.get_rope_index(
        stand_in,
        torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy(is_image.astype(np.int64))[None],
        image_grid_thw=torch.tensor([grid]),
    )
    numbers: npt.NDArray[np.int64] = positions[:, 0].numpy()
    return numbers


def stretched_positions(embeddings: Any, size: tuple[int, int]) -> torch.Tensor:
    """Return the positions that DINOv2 adds to [CLS] and the patches of a picture of ``size``
    (height, width) in pixels: (1, 1 + patches, C), its table itself where that fits.

    ``interpolate_pos_encoding`` is a method of a part of the model, which no documentation lists.
    """
    edge = embeddings.patch_embeddings.patch_size
    patches = (size[0] // edge[0]) * (size[1] // edge[1])
    stand_in = embeddings.cls_token.new_empty(1, 1 + patches, embeddings.cls_token.shape[-1])
    with torch.no_grad():
        positions: torch.Tensor = embeddings.interpolate_pos_encoding(stand_in, *size)
    return positions.detach()


def window_order(grid: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Return the order in which Qwen2.5-VL's tower reads the tokens of a picture, window by window:
    (1, 3) of frames, rows and columns of patches -> int64 (N,)."""
    from transformers.vision_utils import get_vision_window_index

    order, _ = get_vision_window_index(
        grid,
        spatial_merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        patch_size=config.patch_size,
    )
    indices: torch.Tensor = order
    return indices


def greedy_processors(
    settings: GenerationConfig,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    eos_token_ids: Sequence[int] = (0,),
    vocab: int,
) -> LogitsProcessorList:
    """Return what transformers' ``generate`` puts logits (1, vocab) through for a greedy answer of
    so many ``new_tokens`` to a prompt, in its order; called with ids (1, n) of prompt and answer.

    Guidance, which runs the model a second time, and watermarks are left out, as is a logarithm at
    the end, which changes no choice. The list is made by a method that ``generate`` keeps to
    itself; its order is documented nowhere. Settings that it refuses raise ValueError or TypeError.
    """
    made = GenerationConfig.from_dict(settings.to_dict())
    made.num_return_sequences = 1  # more of them need the beams that are taken away here
    made.update(do_sample=False, num_beams=1, guidance_scale=None, watermarking_config=None)
    made.update(renormalize_logits=None, eos_token_id=list(eos_token_ids), pad_token_id=0)
    made.max_length = len(prompt) + new_tokens
    if made.min_new_tokens is not None:
        made.min_length = len(prompt) + made.min_new_tokens
    maker = GenerationMixin()
    maker.config = PretrainedConfig()
    maker._prepare_special_tokens(made, device="cpu")
    ids = torch.tensor([list(prompt)], dtype=torch.int64)
    processors = maker._get_logits_processor(
        made, input_ids_seq_length=len(prompt), encoder_input_ids=ids, device="cpu"
    )
    # Some of them check what they were given only when they are called.
    for so_far in (ids, torch.zeros((1, made.max_length - 1), dtype=torch.int64)):
        processors(so_far, torch.zeros((1, vocab)))
    return processors


def quantize_4bit(
    packed: npt.NDArray[np.uint8],
    weight: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    zero: npt.NDArray[np.uint8],
    block: int,
    inputs: int,
) -> None:
    """Fill ``packed`` (outputs, blocks, block / 2) and ``scale`` (outputs, blocks) from the first
    ``inputs`` rows of ``weight`` (blocks x block, outputs), symmetric around 8, as MatMulNBits
    reads them. ``zero`` (outputs, blocks / 2) is filled too, and means nothing then.

    The kernel behind ``onnxruntime.quantization.MatMulNBitsQuantizer``. That class takes whole
    models, and its module sets up logging for the whole process when it is imported.
    """
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    quantize_matmul_4bits(packed, weight, scale, zero, block, weight.shape[1], inputs, True)


def int8_range() -> tuple[int, int]:
    """Return the range of symmetric int8 weights, (-127, 127): -128 is not used."""
    import onnx
    from onnxruntime.quantization.quant_utils import get_qmin_qmax_for_qType

    low, high = get_qmin_qmax_for_qType(onnx.TensorProto.INT8, symmetric=True)
    return int(low), int(high)


def quantize_int8(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.int8]:
    """Return ``weight`` (inputs, outputs) in symmetric int8 by the ``scale`` of each output.

    The arithmetic of ``onnxruntime.quantization.quantize_dynamic``, which takes whole models.
    """
    import onnx
    from onnxruntime.quantization.quant_utils import quantize_nparray

    rounded: npt.NDArray[np.int8] = quantize_nparray(
        onnx.TensorProto.INT8, weight, scale, 0, *int8_range()
    )
    return rounded


def fuse_norms(model: ir.Model) -> int:
    """Put SimplifiedLayerNormalization in the place of RMS norms; returns how many.

    ``onnxscript.rewriter.ort_fusions`` is experimental by its own account.
    """
    from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization

    return int(fuse_rms_normalization(model))


def fuse_skip_norms(model: ir.Model) -> int:
    """Put SkipSimplifiedLayerNormalization in the place of residual sums and the fused RMS norms
    that follow them; returns how many. As experimental as `fuse_norms`."""
    from onnxscript.rewriter.ort_fusions.skip_normalization import fuse_skip_rms_normalization

    return int(fuse_skip_rms_normalization(model))


def convert_to_ort(source: Path, target: Path) -> None:
    """Write an .ort file into ``target`` for each .onnx file in ``source``.

    The command ``python -m onnxruntime.tools.convert_onnx_models_to_ort`` is documented, its
    functions are not. "Fixed" leaves out optimizations that suit one kind of CPU only.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import (
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    convert_onnx_models_to_ort(source, target, [OptimizationStyle.Fixed])


def write_required_operators(files: Sequence[Path], path: Path) -> None:
    """Write to ``path`` which operators the .ort ``files`` need, for a reduced build of ONNX
    Runtime; undocumented like `convert_to_ort`."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    create_config_from_models(files, path, enable_type_reduction=False)
