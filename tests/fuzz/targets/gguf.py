"""GGUF files: our own check of the header, and llama.cpp on what that lets through."""

from pathlib import Path
from random import Random

import numpy as np

from fuzz.base import Target, put
from fuzz.byte_changes import NUMBERS, damaged
from pocketvlm.decoders.gguf_header import read_header
from support.altered_gguf import joined, parts, with_other_texts
from support.tiny_gguf import write_gguf

try:
    import llama_cpp
except (ImportError, OSError, RuntimeError):
    llama_cpp = None
_KINDS = ("llama", "qwen2vl", "qwen3vl")


class Fuzz(Target):
    """See the module."""

    threat = "a file that ends the process inside llama.cpp, or has it read beyond what it mapped"
    memory_mb = 600

    def prepare(self, folder: Path) -> None:
        self.files, self.sound = [], {}
        for kind in _KINDS:
            path = folder / f"{kind}.gguf"
            write_gguf(path, architecture=kind)
            self.files.append(path.read_bytes())
            self.sound[kind] = read_header(path)

    def write(self, random: Random, box: Path) -> None:
        index = random.randrange(len(self.files))
        content, kind = self.files[index], random.random()
        header = len(content) - len(parts(content).data)
        if kind < 0.3:
            content = with_other_texts(content, np.random.default_rng(random.getrandbits(32)))
        elif kind < 0.7:
            content = _altered(random, content)
        else:
            content = damaged(random, content, self.files, head=header)
        put(box / f"{_KINDS[index]}.gguf", content)

    def use(self, box: Path) -> None:
        (path,) = box.glob("*.gguf")
        if llama_cpp is None:
            read_header(path)
            return
        _used(path, self.sound[path.stem])


def _altered(random: Random, content: bytes) -> bytes:
    """Settings of other numbers and types, tensors of other sizes, types and places."""
    file = parts(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        number = random.choice(NUMBERS)
        if random.random() < 0.5:
            setting = random.choice(file.settings)
            if isinstance(setting[2], int) and random.random() < 0.8:
                setting[1:] = [10, number]  # an unsigned one of 64 bits, whatever it was
                if random.random() < 0.6:
                    setting[1:] = [4, number % (1 << 32)]
            elif isinstance(setting[2], float):
                setting[2] = random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
            elif isinstance(setting[2], tuple):
                items, values = setting[2]
                setting[2] = (items, random.choice((values[:1], values[1:], values * 2, [])))
            else:
                setting[1:] = [4, number % (1 << 32)]
        else:
            tensor = random.choice(file.tensors)
            kind = random.randrange(4)
            if kind == 0:
                tensor[1] = [
                    random.choice((*tensor[1], number))
                    for _ in range(random.choice((1, 2, 3, 4, 5)))
                ]
            elif kind == 1:
                tensor[2] = random.choice(
                    (0, 1, 2, 3, 4, 8, 12, 14, 30, 31, 39, number % (1 << 32))
                )
            elif kind == 2:
                tensor[3] = random.choice((number, random.choice(file.tensors)[3], tensor[3] + 1))
            else:
                tensor[0] = random.choice(file.tensors)[0]
    return joined(file)


def _used(path: Path, sound: object) -> None:
    from pocketvlm import EngineSettings
    from pocketvlm.decoders.base import TokenSegment
    from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
    from pocketvlm.decoders.llama_sequence import Reading
    from support.tiny_gguf import HIDDEN, VOCAB

    extras = tuple(f"extra_{number}" for number in range(sound.extras))
    decoder = LlamaCppDecoder.from_file(
        path, context=64, hidden=HIDDEN, vocab=VOCAB, positions=sound.positions,
        reading=Reading(extras),
        settings=EngineSettings(threads=1),
    )  # fmt: skip
    try:
        sequence = decoder.sequence()
        sequence.prefill([TokenSegment(np.arange(4))])
        sequence.decode(1)
        sequence.close()
    finally:
        decoder.close()
