"""The child process behind the stubs of ONNX Runtime and of DJL's tokenizers: it has the real ones.

Requests come on standard input as the stubs write them: big-endian numbers, texts as UTF-8 with
their length in front, tensors in little-endian. What is said for people goes to standard error.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

WRONG = "NNAPI"  # the provider that the stub plants as one that computes wrongly
_ANSWERS = {"image_features", "logits"}


class Pipe:
    """One end of the pipe."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink

    def numbers(self, form: str) -> tuple[int, ...]:
        """Numbers by a format of `struct`; raises EOFError at the end of the stream."""
        return struct.unpack(f">{form}", self.read(struct.calcsize(f">{form}")))

    def read(self, count: int) -> bytes:
        """So many bytes; raises EOFError at the end of the stream."""
        data = self._source.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def text(self) -> str:
        """A text."""
        return self.read(*self.numbers("i")).decode()

    def longs(self) -> list[int]:
        """A list of int64."""
        (count,) = self.numbers("i")
        return list(self.numbers(f"{count}q"))

    def tensor(self) -> npt.NDArray[np.generic]:
        """A tensor, float32 or int64."""
        (is_float,) = self.numbers("?")
        shape = self.longs()
        kind = np.dtype("<f4" if is_float else "<i8")
        data = self.read(kind.itemsize * int(np.prod(shape)))
        return np.frombuffer(data, kind).reshape(shape)

    def write(self, form: str, *values: int) -> None:
        """Numbers by a format of `struct`."""
        self._sink.write(struct.pack(f">{form}", *values))

    def write_bytes(self, data: bytes) -> None:
        """Bytes as they are."""
        self._sink.write(data)

    def write_text(self, text: str) -> None:
        """A text."""
        data = text.encode()
        self.write("i", len(data))
        self.write_bytes(data)

    def write_longs(self, values: list[int]) -> None:
        """A list of int64."""
        self.write(f"i{len(values)}q", len(values), *values)

    def write_tensor(self, values: npt.NDArray[np.generic]) -> None:
        """A tensor, float32 or int64."""
        is_float = values.dtype == np.float32
        self.write("?", is_float)
        self.write_longs(list(values.shape))
        self.write_bytes(values.astype("<f4" if is_float else "<i8").tobytes())

    def flush(self) -> None:
        """Send what was written."""
        self._sink.flush()


class Server:
    """Answers requests until the pipe is closed."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._sessions: list[tuple[ort.InferenceSession, bool]] = []
        self._tokenizer: Tokenizer | None = None

    def serve(self) -> None:
        """Read requests, answer each."""
        requests: dict[str, Callable[[], Callable[[], None]]] = {
            "open": self._open,
            "run": self._run,
            "tokenizer": self._open_tokenizer,
            "encode": self._encode,
            "decode": self._decode,
        }
        while True:
            try:
                request = requests[self._pipe.text()]
                write = request()
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime raises
                self._pipe.write("?", False)
                self._pipe.write_text(str(error))
            else:
                self._pipe.write("?", True)
                write()
            self._pipe.flush()

    def _open(self) -> Callable[[], None]:
        path = self._pipe.text()
        (threads,) = self._pipe.numbers("i")
        provider = self._pipe.text()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._sessions.append((session, provider == WRONG))
        return lambda: self._pipe.write("q", len(self._sessions) - 1)

    def _run(self) -> Callable[[], None]:
        (number,) = self._pipe.numbers("q")
        (count,) = self._pipe.numbers("i")
        feed = {}
        for _ in range(count):
            name = self._pipe.text()
            feed[name] = self._pipe.tensor()
        (count,) = self._pipe.numbers("i")
        outputs = [self._pipe.text() for _ in range(count)]
        session, wrong = self._sessions[number]
        values = session.run(outputs, feed)

        def write() -> None:
            for name, value in zip(outputs, values, strict=True):
                self._pipe.write_tensor(value[..., ::-1] if wrong and name in _ANSWERS else value)

        return write

    def _open_tokenizer(self) -> Callable[[], None]:
        self._tokenizer = Tokenizer.from_str(Path(self._pipe.text()).read_text(encoding="utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return lambda: None

    def _encode(self) -> Callable[[], None]:
        text = self._pipe.text()
        (add_special,) = self._pipe.numbers("?")
        assert self._tokenizer is not None
        ids = self._tokenizer.encode(text, add_special_tokens=bool(add_special)).ids
        return lambda: self._pipe.write_longs(ids)

    def _decode(self) -> Callable[[], None]:
        ids = self._pipe.longs()
        (skip,) = self._pipe.numbers("?")
        assert self._tokenizer is not None
        text = self._tokenizer.decode(ids, skip_special_tokens=bool(skip))
        return lambda: self._pipe.write_text(text)


if __name__ == "__main__":
    Server(Pipe(sys.stdin.buffer, sys.stdout.buffer)).serve()
