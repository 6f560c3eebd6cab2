"""A program that opens damaged copies of a GGUF file, and asks for what llama.cpp would not
survive.

``python -m support.hostile_gguf FILE FOLDER damage SEED COUNT``, ``... FILE FOLDER texts SEED
COUNT`` or ``... FILE FOLDER limits``. It prints how each case ended. Only the death of the process,
or another error than `PocketVLMError`, is a failure.
"""

import sys
from pathlib import Path

import numpy as np

from pocketvlm import EngineSettings, PocketVLMError
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.gguf_header import GgufHeader, read_header
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.decoders.llama_sequence import LlamaCppSequence, Reading
from pocketvlm.decoders.sampler import Sampler
from pocketvlm.decoders.sampling import Sampling
from pocketvlm.layouts import TokenGrid
from support.altered_gguf import with_other_texts
from support.tiny_gguf import CONTEXT, HIDDEN, VOCAB, TinyLlama


def attempt(path: Path, sound: GgufHeader) -> str:
    """Open a file and use it as its ``sound`` original; ``"refused"`` or ``"used"``."""
    extras = tuple(f"extra_{number}" for number in range(sound.extras))
    try:
        decoder = LlamaCppDecoder.from_file(
            path,
            context=64,
            hidden=HIDDEN,
            vocab=VOCAB,
            positions=sound.positions,
            reading=Reading(extras),
            settings=EngineSettings(threads=1),
        )
        sequence = decoder.sequence()
        embeds = np.ones((3, HIDDEN), np.float32)
        picture = EmbeddingSegment(
            embeds,
            grid=TokenGrid(4, 5),
            kept=np.array([0, 7, 19]),
            extras=dict.fromkeys(extras, embeds),
        )
        sequence.prefill([TokenSegment(np.arange(4)), picture])
        Sampler(Sampling(temperature=0.7, top_p=0.9, seed=1)).pick(sequence.decode(1))
        sequence.close()
        decoder.close()
    except PocketVLMError:
        return "refused"
    return "used"


def damaged(data: bytes, header: int, rng: np.random.Generator) -> bytes:
    """A copy with some bits, bytes or whole numbers of its header changed, a stretch left out, or
    cut short."""
    copy = bytearray(data)
    kind = rng.integers(5)
    places = rng.integers(0, header - 8, size=rng.integers(1, 4))
    if kind == 0:
        return bytes(copy[: rng.integers(1, len(copy))])
    if kind == 1:
        del copy[places[0] : places[0] + int(rng.integers(1, 64))]
        return bytes(copy)
    for at in places:
        if kind == 2:
            copy[at] ^= 1 << rng.integers(8)
        elif kind == 3:
            copy[at] = rng.integers(256)
        else:
            value = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, int(rng.integers(1000))])
            copy[at : at + 8] = int(value).to_bytes(8, "little")
    return bytes(copy)


def try_damage(source: Path, folder: Path, seed: int, count: int) -> None:
    data = source.read_bytes()
    header = len(data) - sum(tensor.nbytes for tensor in TinyLlama.random().tensors.values())
    rng = np.random.default_rng(seed)
    target = folder / "damaged.gguf"
    sound = read_header(source)
    for _ in range(count):
        target.unlink(missing_ok=True)  # a mapped file must not change
        target.write_bytes(damaged(data, header, rng))
        print(attempt(target, sound), flush=True)


def try_texts(source: Path, folder: Path, seed: int, count: int) -> None:
    data, sound = source.read_bytes(), read_header(source)
    rng = np.random.default_rng(seed)
    target = folder / "other-texts.gguf"
    for _ in range(count):
        target.unlink(missing_ok=True)
        target.write_bytes(with_other_texts(data, rng))
        print(attempt(target, sound), flush=True)


def try_limits(source: Path) -> None:
    """Each would end the process if it reached llama.cpp, or be taken for something else without a
    word."""

    def opened(threads=1, **options) -> LlamaCppSequence:
        dimensions = {"context": CONTEXT, "hidden": HIDDEN, "vocab": VOCAB} | options
        settings = EngineSettings(threads=threads)
        return LlamaCppDecoder.from_file(source, **dimensions, settings=settings).sequence()

    def tokens(*ids) -> TokenSegment:
        return TokenSegment(np.array(ids, np.int64))

    small = opened(context=40)
    cases = {
        "context overflow": lambda: small.prefill([tokens(*range(41))]),
        "id beyond the vocabulary": lambda: small.prefill([tokens(1, VOCAB)]),
        "negative id": lambda: small.decode(-1),
        "id beyond 32 bits": lambda: small.decode((1 << 32) + 1),
        "narrow features": lambda: small.prefill(
            [EmbeddingSegment(np.ones((2, HIDDEN // 2), np.float32))]
        ),
        "wide features": lambda: small.prefill(
            [EmbeddingSegment(np.ones((2, HIDDEN * 2), np.float32))]
        ),
        "no tokens": lambda: small.prefill([tokens()]),
        "another hidden size": lambda: opened(hidden=HIDDEN + 1),
        "another vocabulary": lambda: opened(vocab=VOCAB - 1),
        "absurd context": lambda: opened(context=1 << 40),
        "no context": lambda: opened(context=0),
        "no threads": lambda: opened(threads=0),
    }
    for name, case in cases.items():
        try:
            case()
        except PocketVLMError:
            print("refused", flush=True)
        else:
            print(f"{name} was not refused", flush=True)
    # What is long, but within the limits, is cut into batches.
    large = opened()
    large.prefill([EmbeddingSegment(np.ones((2000, HIDDEN), np.float32)), tokens(*[1] * 1500)])
    large.keep(3)
    large.decode(5)
    print("used" if large.length == 4 else "positions are off")


if __name__ == "__main__":
    file, place, what, *numbers = sys.argv[1:]
    if what == "damage":
        try_damage(Path(file), Path(place), *map(int, numbers))
    elif what == "texts":
        try_texts(Path(file), Path(place), *map(int, numbers))
    else:
        try_limits(Path(file))
