"""ONNX Runtime and a tokenizer behind a pipe, for clients in languages that have no library of them
here."""

import pocketvlm as pocketvlm  # before ONNX Runtime, see `pocketvlm.upstream.opt_out`
from engine_pipe.engine import Engine
from engine_pipe.wire import Message, read_message, write_message

__all__ = ["Engine", "Message", "read_message", "write_message"]
