"""Several answers at once on one VLM, from one thread or many: each is what it is alone."""

import functools
import gc
import importlib.util
import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from pocketvlm import VLM, EngineSettings, Limits, Sampling
from pocketvlm.limits import APART, SequenceLimits
from support.tiny_artifact import give_gguf, write_artifact

PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8) for seed in range(2)
]
# A question, and the numbers of its pictures.
REQUESTS = [("what is it?", (0,)), ("a red square", ()), ("is it?", (1,)), ("both?", (0, 1))]
HAS_LLAMA = all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf"))
ENGINES = [
    "onnx",
    pytest.param("llama.cpp", marks=pytest.mark.skipif(not HAS_LLAMA, reason="not installed")),
]


@pytest.fixture(params=ENGINES, scope="module")
def artifact(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root, budgets=(6, 12))
    if request.param == "llama.cpp":
        give_gguf(root)
    return root


def load(artifact, **options):
    """A model whose answers leave nothing for others."""
    options = {"limits": APART} | options
    return VLM.load(artifact, settings=EngineSettings(threads=1), **options)


def arguments(request, tokens=12):
    question, numbers = request
    pictures = [PICTURES[number] for number in numbers]
    return {"prompt": question, "images": pictures, "sampling": Sampling(max_new_tokens=tokens)}


@pytest.fixture(scope="module")
def alone(artifact):
    """Each request's answer from a VLM that has answered nothing else."""
    answers = [load(artifact).generate(**arguments(request)) for request in REQUESTS]
    assert len({tuple(answer.token_ids) for answer in answers}) == len(REQUESTS)
    return answers


def same(answer, expected):
    return (answer.token_ids, answer.text, answer.kept_indices, answer.visual_tokens) == (
        expected.token_ids,
        expected.text,
        expected.kept_indices,
        expected.visual_tokens,
    )


def in_threads(*jobs):
    """Run jobs at once, each in a thread; what they return, in order."""
    results, errors = {}, []
    start = threading.Barrier(len(jobs))

    def work(number, job):
        try:
            start.wait()
            results[number] = job()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(jobs))]


@pytest.mark.parametrize("cache", [False, True], ids=["encoded", "features-kept"])
def test_threads_at_once_get_what_one_alone_gets(artifact, alone, tmp_path, cache):
    vlm = load(artifact, feature_cache=tmp_path if cache else None)

    def job(first):
        order = [(first + step) % len(REQUESTS) for step in range(len(REQUESTS))]
        return {number: vlm.generate(**arguments(REQUESTS[number])) for number in order}

    for answers in in_threads(*(functools.partial(job, number) for number in range(4))):
        assert all(same(answer, alone[number]) for number, answer in answers.items())
    assert vlm.cache_bytes == 0


def test_threads_one_after_another_get_it_too(artifact, alone):
    vlm = load(artifact)
    for request, expected in zip(REQUESTS, alone, strict=True):
        (answer,) = in_threads(lambda request=request: vlm.generate(**arguments(request)))
        assert same(answer, expected)


def test_streams_read_token_by_token_in_turns_are_all_right(artifact, alone):
    vlm = load(artifact)
    streams = [vlm.stream(**arguments(request)) for request in REQUESTS]
    pieces = list(itertools.zip_longest(*streams, fillvalue=""))
    for stream, parts, expected in zip(streams, zip(*pieces, strict=True), alone, strict=True):
        assert "".join(parts) == expected.text
        assert same(stream.answer, expected)


def test_two_threads_stream_at_once(artifact, alone):
    vlm = load(artifact)

    def read(request):
        stream = vlm.stream(**arguments(request))
        text = "".join(stream)
        assert stream.answer.text == text
        return stream.answer

    answers = in_threads(*(functools.partial(read, request) for request in REQUESTS))
    assert all(map(same, answers, alone))


def test_a_long_answer_lets_others_through_between_its_tokens(artifact, alone, monkeypatch):
    """Whoever waits gets the next step, however fast the other asks again."""
    vlm = load(artifact)
    kind = type(vlm.parts.decoder.sequence())
    begun, ended, left, real = threading.Event(), threading.Event(), [], kind.decode

    def decode(self, token_id):
        if threading.current_thread().name == "long":
            begun.set()
            while not (vlm.parts.step.waiting or ended.is_set()):
                time.sleep(0.001)
            left.append(not ended.is_set())
        return real(self, token_id)

    monkeypatch.setattr(kind, "decode", decode)

    def long():
        threading.current_thread().name = "long"
        return vlm.generate(**arguments(REQUESTS[0], 60))

    def other():
        begun.wait(60)
        answer = vlm.generate(**arguments(REQUESTS[1]))
        ended.set()
        return answer

    longest, answer = in_threads(long, other)
    assert same(answer, alone[1])
    assert len(longest.token_ids) == 60
    assert left.count(True) < 25  # tokens of the long answer while the other made its twelve


def test_a_stream_that_nobody_reads_blocks_nobody(artifact, alone):
    vlm = load(artifact)
    stream = vlm.stream(**arguments(REQUESTS[0]))
    beginning = next(stream)
    answers = in_threads(*(lambda r=r: vlm.generate(**arguments(r)) for r in REQUESTS[1:]))
    assert all(map(same, answers, alone[1:]))
    assert beginning + "".join(stream) == alone[0].text


def test_a_stream_may_become_garbage_together_with_its_model(artifact, alone):
    for _ in range(3):
        vlm = load(artifact)
        stream = vlm.stream(**arguments(REQUESTS[0]))
        next(stream)
        cycle = [vlm, stream]
        cycle.append(cycle)
        del vlm, stream, cycle
        gc.collect()
    assert same(load(artifact).generate(**arguments(REQUESTS[0])), alone[0])


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_abandoned_half_read_frees_its_cache_and_disturbs_nobody(artifact, alone, how):
    vlm = load(artifact)
    other = vlm.stream(**arguments(REQUESTS[1]))
    next(other)
    before = vlm.cache_bytes
    stream = vlm.stream(**arguments(REQUESTS[0]))
    next(stream)
    assert vlm.cache_bytes > before > 0
    if how == "closed":
        stream.close()
    del stream
    gc.collect()
    assert vlm.cache_bytes == before
    assert same(other.answer, alone[1])
    assert same(vlm.generate(**arguments(REQUESTS[0])), alone[0])


def test_a_stream_can_be_abandoned_while_another_thread_computes(artifact):
    """Garbage is collected in whichever thread comes along, one that holds the lock among them."""
    vlm = load(artifact)
    stream = vlm.stream(**arguments(REQUESTS[0]))
    next(stream)
    with vlm.parts.step:
        in_threads(stream.close)
    assert vlm.cache_bytes == 0


def converse(chats, limit=8):
    """Ask two conversations in turns; the answers of each."""
    questions = ["what is it?", "and?", "why is it red?"]
    answers = ([], [])
    for turn, question in enumerate(questions):
        for number, chat in enumerate(chats):
            pictures = [PICTURES[number]] if turn == 0 else []
            answers[number].append(
                chat.ask(question, pictures, sampling=Sampling(max_new_tokens=limit))
            )
    return answers


def test_two_conversations_in_turns_keep_what_they_computed(artifact):
    shared = load(artifact)
    together = converse([shared.chat(), shared.chat()])
    apart = converse([load(artifact).chat(), load(artifact).chat()])
    for ours, theirs in zip(together, apart, strict=True):
        assert all(map(same, ours, theirs))
        assert [answer.prompt_tokens for answer in ours] == [a.prompt_tokens for a in theirs]
        assert all(answer.prompt_tokens["cached"] > 0 for answer in ours[1:])


def test_two_conversations_in_two_threads(artifact):
    shared = load(artifact)
    chats = [shared.chat(), shared.chat()]
    expected = converse([load(artifact).chat(), load(artifact).chat()])

    def talk(number):
        questions = ["what is it?", "and?", "why is it red?"]
        return [
            chats[number].ask(
                question, [PICTURES[number]] if i == 0 else [], sampling=Sampling(max_new_tokens=8)
            )
            for i, question in enumerate(questions)
        ]

    for ours, theirs in zip(
        in_threads(*(functools.partial(talk, number) for number in range(2))), expected, strict=True
    ):
        assert all(map(same, ours, theirs))


def test_where_memory_is_short_answers_are_the_same_and_take_a_longer_prefill(artifact):
    tiny = load(artifact, limits=Limits(sequences=SequenceLimits(memory_bytes=1, kept=0)))
    together = converse([tiny.chat(), tiny.chat()])
    apart = converse([load(artifact).chat(), load(artifact).chat()])
    for ours, theirs in zip(together, apart, strict=True):
        assert all(map(same, ours, theirs))
        assert all(answer.prompt_tokens["cached"] == 0 for answer in ours)
    alone = tiny.chat()  # the conversation answered last keeps its cache, whatever the limit
    alone.ask("what?", sampling=Sampling(max_new_tokens=2))
    assert alone.ask("and?", sampling=Sampling(max_new_tokens=2)).prompt_tokens["cached"] > 0


@functools.cache
def answer_alone(root, number, tokens):
    return load(root).generate(**arguments(REQUESTS[number], tokens))


class Interleavings(RuleBasedStateMachine):
    """Streams begun, read, left and ended in any order, between questions of two conversations.

    Each conversation has a twin on a VLM of its own, which is read as far.
    """

    root = None  # of the artifact

    streams = Bundle("streams")

    @initialize(memory=st.sampled_from([0, 4000, 1 << 30]))
    def begin(self, memory):
        self.vlm = load(self.root, limits=Limits(sequences=SequenceLimits(memory_bytes=memory)))
        self.chats = [(self.vlm.chat(), load(self.root).chat()) for _ in range(2)]

    @rule(target=streams, number=st.integers(0, len(REQUESTS) - 1), tokens=st.integers(1, 10))
    def begin_stream(self, number, tokens):
        stream = self.vlm.stream(**arguments(REQUESTS[number], tokens))
        return stream, answer_alone(self.root, number, tokens), []

    @rule(stream=streams)
    def step(self, stream):
        pieces, expected, so_far = stream
        so_far.extend(itertools.islice(pieces, 1))
        assert expected.text.startswith("".join(so_far))

    @rule(stream=consumes(streams))
    def end(self, stream):
        pieces, expected, _ = stream
        assert same(pieces.answer, expected)

    @rule(stream=consumes(streams))
    def abandon(self, stream):
        stream[0].close()

    @rule(number=st.integers(0, 1), request=st.sampled_from(REQUESTS), read=st.integers(0, 6))
    def converse(self, number, request, read):
        """A question whose answer is left after some pieces, or read to its end."""
        ours, theirs = (chat.stream(**arguments(request, 6)) for chat in self.chats[number])
        assert list(itertools.islice(ours, read)) == list(itertools.islice(theirs, read))
        if read % 2:
            ours.close()
            theirs.close()
        else:
            assert same(ours.answer, theirs.answer)
        messages, expected = (chat.messages for chat in self.chats[number])
        assert messages == expected

    @rule(number=st.integers(0, 1))
    def reset(self, number):
        for chat in self.chats[number]:
            chat.reset()


def test_any_order_of_streams_and_conversations(artifact):
    machine = type("OnTiny", (Interleavings,), {"root": artifact})
    machine.TestCase.settings = hypothesis_settings(
        max_examples=20, stateful_step_count=15, deadline=None
    )
    machine.TestCase("runTest").runTest()
