"""Knows how a decoder is written into a GGUF file, a tensor in memory at a time."""

from collections.abc import Callable
from pathlib import Path

import gguf
import torch

from pocketvlm_export.gguf.architectures import architecture
from pocketvlm_export.gguf.hyper_parameters import add_hyper_parameters
from pocketvlm_export.gguf.tensors import DecoderTensor, decoder_tensors
from pocketvlm_export.gguf.vocabulary import add_vocabulary, read_vocabulary
from pocketvlm_export.gguf_types import GGUF_TYPES
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.quiet import quiet_gguf


def write_gguf(
    checkpoint: Checkpoint,
    texts: Path,
    path: Path,
    kind: str,
    eos: int,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Write a checkpoint's decoder to ``path``.

    Args:
        checkpoint: whose decoder.
        texts: the folder with its tokenizer.json, tokenizer_config.json, config.json and
            chat_template.jinja.
        path: the file, replaced where it exists.
        kind: a type that llama.cpp is not needed for (`GgufType.written`); vectors are always
            float32.
        eos: the id that ends an answer.
        progress: called with the part that is written, up to 1.

    Raises:
        PocketVLMError: llama.cpp has nothing that computes the same, or the checkpoint lacks a
            weight.
    """
    spec = checkpoint.spec.decoder
    gguf_type = GGUF_TYPES[kind]
    assert gguf_type.written is not None
    matrices: torch.dtype = getattr(torch, gguf_type.written)
    tensors = list(decoder_tensors(checkpoint))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture(spec).name])
    try:
        with quiet_gguf():
            writer.add_type(gguf.GGUFType.MODEL)
            writer.add_name(checkpoint.source.name)
            writer.add_file_type(gguf.LlamaFileType[gguf_type.file_type])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            add_hyper_parameters(writer, spec)
            add_vocabulary(writer, read_vocabulary(texts, spec.vocab), texts, eos)
        _write_tensors(writer, tensors, matrices, progress)
    finally:
        writer.close()


def _write_tensors(
    writer: gguf.GGUFWriter,
    tensors: list[DecoderTensor],
    matrices: torch.dtype,
    progress: Callable[[float], None],
) -> None:
    """Write the list of tensors, then each as it is loaded."""
    sizes = [
        torch.Size(tensor.shape).numel() * _dtype(tensor, matrices).itemsize for tensor in tensors
    ]
    for tensor, size in zip(tensors, sizes, strict=True):
        element = torch.empty(0, dtype=_dtype(tensor, matrices)).numpy().dtype
        writer.add_tensor_info(tensor.name, tensor.shape, element, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    written = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        writer.write_tensor_data(tensor.load().to(_dtype(tensor, matrices)).numpy())
        written += size
        progress(written / sum(sizes))


def _dtype(tensor: DecoderTensor, matrices: torch.dtype) -> torch.dtype:
    is_matrix = len(tensor.shape) > 1 and not tensor.exact
    return matrices if is_matrix else torch.float32
