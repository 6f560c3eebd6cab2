"""ONNX Runtime and a tokenizer behind a pipe, for clients in languages that have no library of them
here."""

import pocketvlm as pocketvlm  # before ONNX Runtime, see `pocketvlm.upstream.opt_out`
