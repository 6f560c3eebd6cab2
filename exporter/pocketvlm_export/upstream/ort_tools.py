"""Knows ONNX Runtime's kernels of quantization, experimental fusions and converters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


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
