"""Measures speed and memory side by side: ratios from one interleaved run on a quiet machine."""

import pocketvlm as pocketvlm  # before ONNX Runtime, see `pocketvlm.upstream.opt_out`
