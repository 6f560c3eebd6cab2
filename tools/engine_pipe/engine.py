"""Knows how requests are answered: graphs opened and run by ONNX Runtime, text tokenized by
`tokenizers`, picture files read by Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime as ort
import tokenizers
from PIL import Image

from engine_pipe.wire import Message, read_message, write_message


class Engine:
    """Answers requests ``{"do": NAME, ...}``.

    | ``do`` | in the request | in the reply |
    |---|---|---|
    | ``open`` | ``path``, ``threads``, ``provider`` | ``session``; ``inputs``, ``outputs``, names |
    | ``run`` | ``session``, ``outputs``, names; tensors | tensors |
    | ``close`` | ``session`` | |
    | ``encode`` | ``tokenizer``, ``text``, ``special`` | ``ids`` |
    | ``decode`` | ``tokenizer``, ``ids``, ``special`` | ``text`` |
    | ``tokenizer`` | ``tokenizer``, which is read again | |
    | ``picture`` | ``path`` | the tensor ``rgba``, uint8 (height, width, 4) |

    ``session`` is a number, ``tokenizer`` the path of a tokenizer.json, ``special`` whether
    special tokens are added, or kept in a text; none are kept where ``decode`` leaves it out.
    ``threads`` and ``provider`` may be left out too. Every reply to what fails is
    ``{"error": TEXT}``.

    Args:
        wrong: a provider whose sessions give outputs that are a little wrong, as broken kernels
            do. Every session computes on the CPU here, whatever provider is asked for.
    """

    def __init__(self, wrong: str | None = None) -> None:
        self._wrong = wrong
        self._sessions: dict[int, tuple[ort.InferenceSession, str]] = {}
        self._tokenizers: dict[str, tokenizers.Tokenizer] = {}
        self._opened = 0

    def serve(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        """Answer until the reader ends."""
        while (request := read_message(reader)) is not None:
            try:
                reply = self.reply(request)
            except Exception as error:  # noqa: BLE001 - whatever a library raises goes back
                reply = Message({"error": f"{type(error).__name__}: {error}"})
            write_message(writer, reply)

    def reply(self, request: Message) -> Message:
        """The reply to one request; raises what the libraries raise."""
        header, do = request.header, request.header.get("do")
        if do == "open":
            return self._open(header)
        if do == "run":
            return self._run(header, request.tensors)
        if do == "close":
            del self._sessions[header["session"]]
            return Message({})
        if do == "encode":
            encoded = self._tokenizer(header).encode(
                header["text"], add_special_tokens=header["special"]
            )
            return Message({"ids": encoded.ids})
        if do == "decode":
            skip = not header.get("special", False)
            text = self._tokenizer(header).decode(header["ids"], skip_special_tokens=skip)
            return Message({"text": text})
        if do == "tokenizer":
            self._tokenizers.pop(_path(header), None)
            self._tokenizer(header)
            return Message({})
        if do == "picture":
            with Image.open(header["path"]) as image:
                return Message({}, {"rgba": np.asarray(image.convert("RGBA"))})
        raise ValueError(f"the request {do!r} is unknown")

    def _open(self, header: Mapping[str, Any]) -> Message:
        options = ort.SessionOptions()
        options.intra_op_num_threads = header.get("threads") or 0
        session = ort.InferenceSession(header["path"], options, providers=["CPUExecutionProvider"])
        self._opened += 1
        self._sessions[self._opened] = (session, header.get("provider") or "cpu")
        inputs, outputs = session.get_inputs(), session.get_outputs()
        return Message(
            {
                "session": self._opened,
                "inputs": [each.name for each in inputs],
                "outputs": [each.name for each in outputs],
            }
        )

    def _run(self, header: Mapping[str, Any], tensors: Mapping[str, Any]) -> Message:
        session, provider = self._sessions[header["session"]]
        values = session.run(header["outputs"], dict(tensors))
        if provider == self._wrong:
            values = [_spoiled(value) for value in values]
        return Message({}, dict(zip(header["outputs"], values, strict=True)))

    def _tokenizer(self, header: Mapping[str, Any]) -> tokenizers.Tokenizer:
        path = _path(header)
        if path not in self._tokenizers:
            tokenizer = tokenizers.Tokenizer.from_file(path)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            self._tokenizers[path] = tokenizer
        return self._tokenizers[path]


def _path(header: Mapping[str, Any]) -> str:
    return str(Path(header["tokenizer"]).resolve())


def _spoiled(value: Any) -> Any:
    """A tensor of floats whose every second column is half of what it should be."""
    if value.dtype != np.float32:
        return value
    spoiled = value.copy()
    spoiled[..., ::2] *= 0.5
    return spoiled
