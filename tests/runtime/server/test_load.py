"""Several clients at once, each with a picture of its own, while others go in the middle: the
answer to each is its own. The whole of it is `make serve-clients`."""

import pytest

from pocketvlm import VLM, Sampling
from serve_clients.load import Load, Question
from serve_clients.serving import Served
from support.serving import data_uri, image_part, picture, text_part
from support.tiny_artifact import write_artifact

CLIENTS, REQUESTS, EVERY, TOKENS = 4, 40, 10, 12


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root)
    return root


@pytest.fixture(scope="module")
def questions(artifact):
    """One of each client, answered beforehand; no two answers are equal."""
    vlm, asked = VLM.load(artifact), {}
    for seed in range(50):
        answer = vlm.generate(
            "what?", [picture(seed)], sampling=Sampling(max_new_tokens=TOKENS)
        ).text.lstrip()
        content = [image_part(data_uri(seed)), text_part("what?")]
        messages = [{"role": "user", "content": content}]
        asked.setdefault(answer, Question(messages, answer, {"max_tokens": TOKENS}))
        if len(asked) == CLIENTS:
            break
    assert len(asked) == CLIENTS
    return list(asked.values())


@pytest.fixture(scope="module")
def served(artifact, tmp_path_factory):
    """Two are answered, one waits; who comes then is sent away, and comes again."""
    options = ("--threads", "1", "--parallel", "2", "--queue", "1")
    with Served(artifact, tmp_path_factory.mktemp("log") / "log.txt", options=options) as server:
        yield server


def test_no_answer_is_wrong_lost_or_crossed(served, questions):
    tally = Load(served.url, questions, every=EVERY).run(REQUESTS)
    assert tally.is_clean, str(tally)
    assert tally.right == REQUESTS - REQUESTS // EVERY
    assert tally.dropped == REQUESTS // EVERY


def test_what_the_load_finds(served, questions):
    """Answers that were exchanged, and some that are nobody's."""
    first, second, *rest = questions
    exchanged = [
        Question(first.messages, second.answer, first.keys),
        Question(second.messages, first.answer, second.keys),
        Question(rest[0].messages, "something else", rest[0].keys),
        rest[1],
    ]
    tally = Load(served.url, exchanged, every=REQUESTS + 1).run(CLIENTS * 2)
    assert tally.right + tally.crossed + tally.wrong == CLIENTS * 2
    assert not tally.is_clean
    assert tally.notes
