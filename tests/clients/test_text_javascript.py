"""Text in the client for JavaScript, against the runtime: ids of conversations, pieces of answers,
texts that end them."""

import json
import random

import pytest

from pocketvlm import Artifact
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Detokenizer, StopTexts
from pocketvlm_export.packaging.using import write_using
from support.node import CLIENT, needs_node, run_client
from support.tiny_artifact import byte_tokenizer, write_artifact
from support.tiny_tokenizers import sentence_pieces

pytestmark = needs_node

ALPHABET = ["a", "b", "is it", " ", "\n", "é", "你好", "🙂", "👩‍🚀", "</s>", "\u0301"]


def texts(count, seed, least=1, most=8):
    random.seed(seed)
    return ["".join(random.choices(ALPHABET, k=random.randint(least, most))) for _ in range(count)]


@pytest.fixture(scope="module", params=[byte_tokenizer, sentence_pieces])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "a"
    write_artifact(folder, tokenizer=request.param())
    write_using(Artifact.open(folder))
    return folder


@pytest.fixture(scope="module")
def prompter(folder):
    return Prompter.from_artifact(Artifact.open(folder))


def conversations():
    """(messages as clients give them, pictures in them)."""
    picture = {"type": "image"}
    said = [text for text in texts(12, 1) if text.strip()]
    yield [{"role": "user", "content": said[0]}]
    yield [{"role": "system", "content": said[1]}, {"role": "user", "content": said[2]}]
    parts = [{"type": "text", "text": said[3]}, picture, {"type": "text", "text": said[4]}]
    yield [{"role": "user", "content": parts}]
    yield [
        {"role": "user", "content": [picture, picture, {"type": "text", "text": said[5]}]},
        {"role": "assistant", "content": said[6].strip()},
        {"role": "user", "content": said[7]},
    ]


def read(messages):
    """As chat templates read it."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]


def test_conversations_become_the_runtimes_ids(folder, prompter, tmp_path):
    script = """
    const vlm = await load(given.folder);
    results.ids = given.conversations.map((messages) => vlm.prompter.encode(messages).ids);
    results.question = vlm.prompter.question("<image> or <image>?", 2).ids;
    results.first = vlm.prompter.question("which?", 2).ids;
    """
    given = list(conversations())
    results = run_client(tmp_path, script, folder=str(folder), conversations=given)
    for messages, ids in zip(given, results["ids"], strict=True):
        count = json.dumps(messages).count('"image"')
        assert ids == prompter.encode_messages(read(messages), count).tolist()
    assert results["question"] == prompter.encode("<image> or <image>?", 2).tolist()
    assert results["first"] == prompter.encode("which?", 2).tolist()


def test_pieces_add_up_to_the_runtimes_text_and_hold_whole_characters(folder, prompter, tmp_path):
    """Of sound text; of tokens in any order they add up too, though the libraries do not agree on
    bytes that are not characters."""
    random.seed(2)
    vocabulary = prompter.tokenizer.get_vocab_size()
    sound = [prompter.tokenizer.encode(text).ids for text in texts(60, 3)]
    wild = [[random.randrange(vocabulary + 2) for _ in range(12)] for _ in range(60)]
    script = """
    const { Detokenizer } = await import(given.module);
    const vlm = await load(given.folder);
    results.pieces = given.answers.map((ids) => {
      const text = new Detokenizer(vlm.prompter.tokenizer);
      return [...ids.map((id) => text.push(id)), text.finish(), text.text];
    });
    """
    module = (CLIENT / "answer_text.mjs").as_uri()
    answers = [*sound, *wild]
    results = run_client(tmp_path, script, folder=str(folder), module=module, answers=answers)
    for ids, (*pieces, text) in zip(answers, results["pieces"], strict=True):
        expected = Detokenizer(prompter.tokenizer)
        for token in ids:
            expected.push(token)
        assert "".join(pieces) == text
        if ids in sound:
            assert text == expected.text
            assert not any("\ufffd" in piece for piece in pieces)


def test_texts_end_an_answer_as_in_the_runtime(tmp_path):
    random.seed(4)
    cases = [
        {
            "stop": ["".join(random.choices("ab", k=random.randint(1, 4))) for _ in range(count)],
            "pieces": ["".join(random.choices("abc", k=random.randint(0, 3))) for _ in range(9)],
        }
        for count in (1, 2, 3)
        for _ in range(60)
    ]
    script = """
    const { StopTexts } = await import(given.module);
    results.outputs = given.cases.map(({ stop, pieces }) => {
      const texts = new StopTexts(stop);
      const outputs = [...pieces.map((piece) => texts.push(piece)), texts.finish()];
      return { outputs, stopped: texts.stopped, cut: texts.cut(pieces.join("")) };
    });
    """
    module = (CLIENT / "answer_text.mjs").as_uri()
    results = run_client(tmp_path, script, module=module, cases=cases)
    for case, made in zip(cases, results["outputs"], strict=True):
        expected = StopTexts(case["stop"])
        outputs = [*(expected.push(piece) for piece in case["pieces"]), expected.finish()]
        assert made["outputs"] == outputs
        assert made["stopped"] == expected.stopped
        assert made["cut"] == expected.cut("".join(case["pieces"]))
