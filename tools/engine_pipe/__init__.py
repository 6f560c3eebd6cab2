"""ONNX Runtime and a tokenizer behind a pipe, for clients in languages that have no library of them
here."""

from engine_pipe.engine import Engine
from engine_pipe.wire import Message, read_message, write_message

__all__ = ["Engine", "Message", "read_message", "write_message"]
