"""llama.cpp's decoder against a numpy twin of the same weights, and everything that must not end
the process."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pocketvlm import EngineSettings, PocketVLMError
from pocketvlm.decoders import llama_cpp
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.llama_sequence import Reading
from pocketvlm.errors import ArtifactError, EngineError

pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: pip install 'pocketvlm[llama]'"
)
pytest.importorskip(
    "gguf", reason="the PyPI package gguf writes the files: pip install 'pocketvlm[export]'"
)

from support.processes import run_module
from support.tiny_gguf import CONTEXT, HIDDEN, VOCAB, TinyLlama, write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def twin():
    return TinyLlama.random()


def opened(file, **options):
    defaults = {"context": CONTEXT, "hidden": HIDDEN, "vocab": VOCAB, "f32_cache": True}
    settings = EngineSettings(threads=1)
    return llama_cpp.LlamaCppDecoder.from_file(file, settings=settings, **(defaults | options))


@pytest.fixture
def sequence(file):
    decoder = opened(file)
    yield decoder.sequence()
    decoder.close()


def tokens(*ids):
    return TokenSegment(np.array(ids, np.int64))


def picture(n, seed=1):
    return np.random.default_rng(seed).normal(size=(n, HIDDEN)).astype(np.float32)


def assert_logits(actual, twin, embeddings, atol=5e-4):
    assert (actual.dtype, actual.shape) == (np.float32, (VOCAB,))
    np.testing.assert_allclose(actual, twin.logits(np.stack(embeddings)), rtol=1e-3, atol=atol)


def test_text_and_pictures_in_turn_equal_the_whole_sequence_at_once(sequence, twin):
    first, second = picture(5), picture(7, seed=2)
    logits = sequence.prefill(
        [
            tokens(7, 3),
            EmbeddingSegment(first),
            tokens(250),
            tokens(11),
            EmbeddingSegment(second),
            tokens(1),
        ]
    )
    embeddings = [*twin.embed[[7, 3]], *first, *twin.embed[[250, 11]], *second, twin.embed[1]]
    assert_logits(logits, twin, embeddings)
    assert sequence.length == sequence.next_position == len(embeddings)
    assert set(sequence.timings_ms) == {"embed", "prefill"}
    for token in (42, 1, 200):
        embeddings.append(twin.embed[token])
        assert_logits(sequence.decode(token), twin, embeddings)
    embeddings += [twin.embed[5], twin.embed[6]]
    assert_logits(sequence.prefill([tokens(5, 6)]), twin, embeddings)


def test_more_than_a_batch_and_more_than_the_first_cache(sequence, twin):
    """1,020 embeddings take two batches; with what follows the cache is moved into a larger one."""
    many, more = picture(1020), picture(30, seed=3)
    sequence.prefill([EmbeddingSegment(many[:600]), EmbeddingSegment(many[600:]), tokens(0, 1, 2)])
    sequence.prefill([EmbeddingSegment(more)])
    embeddings = [*many, *twin.embed[:3], *more, twin.embed[9]]
    assert_logits(sequence.decode(9), twin, embeddings)
    sequence.reset()
    assert sequence.length == 0
    assert_logits(sequence.prefill([tokens(9)]), twin, [twin.embed[9]])


def test_the_sequence_can_be_cut_anywhere(sequence, twin):
    features = picture(6)
    embeddings = [*twin.embed[[1, 2]], *features, *twin.embed[[3, 4]]]
    sequence.prefill([tokens(1, 2), EmbeddingSegment(features), tokens(3, 4)])
    for length in (10, 9, 5, 1, 0):
        sequence.keep(length)
        assert sequence.length == length
        embeddings = [*embeddings[:length], twin.embed[77]]
        assert_logits(sequence.decode(77), twin, embeddings)


def test_a_refusal_leaves_the_sequence_as_it_was(sequence, twin):
    sequence.prefill([tokens(4, 5)])
    for refused in (
        lambda: sequence.decode(VOCAB),
        lambda: sequence.prefill([tokens(1), EmbeddingSegment(np.ones((2, 4), np.float32))]),
        lambda: sequence.prefill([tokens(*[1] * CONTEXT)]),
    ):
        with pytest.raises(PocketVLMError):
            refused()
    assert sequence.length == 2
    assert_logits(sequence.decode(6), twin, twin.embed[[4, 5, 6]])


@pytest.mark.parametrize("counted", [True, False], ids=["before-the-next", "after-its-step"])
def test_an_interrupt_between_batches_leaves_the_sequence_as_it_was(
    sequence, twin, monkeypatch, counted
):
    sequence.prefill([tokens(4, 5)])
    lib = llama_cpp.library()
    decode, decoded = lib.llama_decode, []

    def interrupted(context, batch):
        if decoded:
            raise KeyboardInterrupt
        code = decode(context, batch)
        decoded.append(batch.n_tokens)
        if not counted:
            raise KeyboardInterrupt
        return code

    monkeypatch.setattr(lib, "llama_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sequence.prefill([EmbeddingSegment(picture(600))])
    monkeypatch.undo()
    assert decoded == [512]
    assert sequence.length == 2
    assert_logits(sequence.decode(6), twin, twin.embed[[4, 5, 6]])


def test_a_half_precision_cache_stays_close(file, twin):
    features = picture(40)
    sequence = opened(file, f32_cache=False).sequence()
    logits = sequence.prefill([EmbeddingSegment(features)])
    assert_logits(logits, twin, features, atol=0.05)


def test_what_does_not_fit_the_file_is_the_artifacts_fault(file, sequence, monkeypatch):
    with pytest.raises(ArtifactError, match="not within the vocabulary"):
        sequence.prefill([tokens(VOCAB)])
    with pytest.raises(ArtifactError, match="4 wide, the decoder reads"):
        sequence.prefill([EmbeddingSegment(np.ones((2, 4), np.float32))])
    monkeypatch.setattr(llama_cpp.library(), "llama_model_load_from_file", lambda *_: None)
    with pytest.raises(ArtifactError, match="cannot be opened by llama"):
        opened(file)


@pytest.fixture
def freed(monkeypatch):
    """What of llama.cpp's is freed, in order: "context" or "model"."""
    gc.collect()  # what other tests have left
    names = []
    lib = llama_cpp.library()
    for name, function in (("context", lib.llama_free), ("model", lib.llama_model_free)):

        def free(pointer, name=name, function=function):
            names.append(name)
            function(pointer)

        monkeypatch.setattr(lib, function.__name__, free)
    return names


@pytest.fixture
def made(monkeypatch):
    """The contexts that llama.cpp makes."""
    pointers = []
    lib = llama_cpp.library()
    make = lib.llama_init_from_model

    def note(*arguments):
        pointers.append(make(*arguments))
        return pointers[-1]

    monkeypatch.setattr(lib, "llama_init_from_model", note)
    return pointers


def test_a_decoder_that_nobody_needs_any_more_is_freed(file, freed):
    decoder = opened(file)
    gone = weakref.ref(decoder)
    del decoder
    gc.collect()
    assert gone() is None
    assert freed == ["context", "model"]
    closed = opened(file)
    closed.close()
    closed.close()
    assert freed == ["context", "model"] * 2


def test_sequences_share_a_model_and_know_nothing_of_each_other(file, twin):
    decoder = opened(file)
    first, second = decoder.sequence(), decoder.sequence()
    assert_logits(first.prefill([tokens(1, 2)]), twin, twin.embed[[1, 2]])
    assert_logits(second.prefill([tokens(9)]), twin, twin.embed[[9]])
    assert_logits(first.decode(3), twin, twin.embed[[1, 2, 3]])
    assert_logits(second.decode(8), twin, twin.embed[[9, 8]])
    first.reset()
    assert_logits(second.decode(7), twin, twin.embed[[9, 8, 7]])
    assert (first.length, second.length) == (0, 3)


def test_sequences_compute_in_threads_at_once(file, twin):
    decoder = opened(file)

    def answer(start):
        sequence = decoder.sequence()
        logits = [sequence.prefill([tokens(start)])]
        logits += [sequence.decode(start + step) for step in range(1, 6)]
        sequence.close()
        return logits

    with ThreadPoolExecutor(4) as pool:
        for start, answers in zip(range(20), pool.map(answer, range(20)), strict=True):
            for length, logits in enumerate(answers, 1):
                assert_logits(logits, twin, twin.embed[start : start + length])


def test_one_idle_context_is_kept_and_used_again_empty(file, twin, made, freed):
    decoder = opened(file)
    for token in range(5):
        sequence = decoder.sequence()
        assert_logits(sequence.prefill([tokens(token)]), twin, twin.embed[[token]])
        sequence.close()
    assert (len(made), freed) == (1, [])
    first, second = decoder.sequence(), decoder.sequence()
    first.decode(1)
    second.decode(1)
    assert len(made) == 2
    first.close()
    second.close()
    assert freed == ["context"]  # of the two one is kept
    large = decoder.sequence()
    large.prefill([EmbeddingSegment(picture(1100))])
    large.close()
    # One of another size is not kept, and while it is needed none is.
    assert (len(made), freed) == (3, ["context"] * 3)


def test_closing_a_decoder_leaves_its_sequences_alone(file, twin, freed):
    decoder = opened(file)
    idle, busy = decoder.sequence(), decoder.sequence()
    busy.prefill([tokens(4, 5)])
    decoder.close()
    decoder.close()
    with pytest.raises(PocketVLMError, match=r"llama\.cpp is closed: load the model again"):
        decoder.sequence()
    assert_logits(busy.decode(6), twin, twin.embed[[4, 5, 6]])
    # A larger cache needs the model, which is still there.
    many = picture(1100)
    logits = busy.prefill([EmbeddingSegment(many)])
    assert_logits(logits, twin, [*twin.embed[[4, 5, 6]], *many])
    del decoder
    for sequence in (busy, idle, busy):
        assert "model" not in freed[:-1]
        sequence.close()
    gc.collect()
    assert freed == ["context", "context", "model"]
    with pytest.raises(PocketVLMError, match="this sequence is closed"):
        busy.decode(1)


def test_a_model_goes_after_its_contexts_in_whatever_order_they_become_garbage(file, freed):
    decoder = opened(file)
    sequences = [decoder.sequence() for _ in range(3)]
    for sequence in sequences:
        sequence.decode(1)
    cycle = [decoder, *sequences]
    cycle.append(cycle)
    del decoder, sequence, sequences, cycle
    gc.collect()
    assert freed == ["context"] * 3 + ["model"]


def test_the_bytes_of_a_cache_are_those_that_llama_cpp_sets_aside(file, monkeypatch):
    lib = llama_cpp.library()
    decode, contexts = lib.llama_decode, []

    def recorded(context, batch):
        contexts.append(context)
        return decode(context, batch)

    monkeypatch.setattr(lib, "llama_decode", recorded)
    for f32_cache in (True, False):
        sequence = opened(file, f32_cache=f32_cache).sequence()
        assert sequence.cache_bytes == 0
        sizes = []
        for _ in range(2):
            sequence.prefill([EmbeddingSegment(picture(400))])
            sizes.append(lib.llama_state_seq_get_size(contexts[-1], 0))
        # A state holds a position for each token too, and little else.
        each = sequence.cache_bytes / 1024
        assert each <= (sizes[1] - sizes[0]) / 400 <= each + 64
        sequence.prefill([EmbeddingSegment(picture(400))])
        assert sequence.cache_bytes == 2048 * each
        sequence.reset()
        assert sequence.cache_bytes == 0


def test_a_model_whose_positions_llama_cpp_reads_otherwise_is_refused(file, monkeypatch):
    """It would read four numbers of each embedding's position, and be given one or none."""
    monkeypatch.setattr(llama_cpp.library(), "llama_model_rope_type", lambda _: 8)
    with pytest.raises(EngineError, match="reads 4 numbers of a position"):
        opened(file)


def test_a_cut_that_llama_cpp_does_not_make_is_noticed(sequence, twin, monkeypatch):
    sequence.prefill([tokens(1, 2, 3)])
    monkeypatch.setattr(llama_cpp.library(), "llama_memory_seq_rm", lambda *_: True)
    sequence.keep(2)
    assert sequence.length == 0
    monkeypatch.undo()
    assert_logits(sequence.prefill([tokens(9)]), twin, [twin.embed[9]])


def test_nothing_is_written_to_the_terminal(file, capfd):
    opened(file).sequence().decode(1)
    with pytest.raises(PocketVLMError):
        opened(file, hidden=HIDDEN + 1)
    assert capfd.readouterr() == ("", "")


def hostile(*arguments):
    """How each case ended in a process of its own."""
    # llama.cpp would start a debugger where it ends a process.
    done = run_module("support.hostile_gguf", *arguments, env={"GGML_NO_BACKTRACE": "1"})
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("architecture", ["llama", "qwen2vl", "qwen3vl"])
def test_no_damaged_file_ends_the_process(tmp_path, architecture):
    write_gguf(tmp_path / "sound.gguf", architecture=architecture)
    endings = hostile(tmp_path / "sound.gguf", tmp_path, "damage", 1, 400)
    assert len(endings) == 400
    assert endings.count("refused") > 100
    assert endings.count("used") > 10
    assert set(endings) <= {"refused", "used"}


@pytest.mark.parametrize("architecture", ["llama", "qwen2vl"])
def test_no_text_ends_the_process(tmp_path, architecture):
    write_gguf(tmp_path / "sound.gguf", architecture=architecture)
    endings = hostile(tmp_path / "sound.gguf", tmp_path, "texts", 1, 60)
    assert len(endings) == 60
    assert min(endings.count("refused"), endings.count("used")) > 5
    assert set(endings) <= {"refused", "used"}


def test_no_request_ends_the_process(file, tmp_path):
    assert hostile(file, tmp_path, "limits") == ["refused"] * 12 + ["used"]


def test_positions_from_one_on(file, twin):
    decoder = opened(file, reading=Reading(first_position=1))
    try:
        sequence, embeddings = decoder.sequence(), [*twin.embed[[7, 3]], *picture(5)]
        sequence.prefill([tokens(7, 3), EmbeddingSegment(picture(5))])
        assert (sequence.length, sequence.next_position) == (7, 8)
        sequence.keep(4)
        assert (sequence.length, sequence.next_position) == (4, 5)
        logits = sequence.decode(9)
        assert (sequence.length, sequence.next_position) == (5, 6)
        assert_logits(logits, twin, [*embeddings[:4], twin.embed[9]])
    finally:
        decoder.close()
