"""What `generate`, `stream` and `chat` take beside a prompt: messages, system turns, stop texts."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Sampling
from pocketvlm.cli import main
from pocketvlm.errors import RequestError


def picture_part(picture):
    return {"type": "image", "image": picture}


def text_part(text):
    return {"type": "text", "text": text}


def test_a_prompt_with_pictures_is_the_same_as_one_message(vlm, picture):
    message = {"role": "user", "content": [picture_part(picture), text_part("what?")]}
    sampling = Sampling(max_new_tokens=6)
    by_prompt = vlm.generate("what?", [picture], sampling=sampling)
    by_messages = vlm.generate(messages=[message], sampling=sampling)
    assert by_messages.token_ids == by_prompt.token_ids
    assert by_messages.prompt_tokens["total"] == by_prompt.prompt_tokens["total"]
    assert by_messages.kept_indices == by_prompt.kept_indices


def test_whole_conversations_equal_a_chat(vlm, picture):
    sampling = Sampling(max_new_tokens=5)
    chat = vlm.chat(system="be brief")
    first = chat.ask("what?", [picture], sampling=sampling)
    second = chat.ask("and?", sampling=sampling)
    assert chat.messages[0]["role"] == "system"
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [picture_part(picture), text_part("what?")]},
        {"role": "assistant", "content": first.text.strip()},
        {"role": "user", "content": "and?"},
    ]
    assert vlm.generate(messages=messages[:2], sampling=sampling).token_ids == first.token_ids
    assert vlm.generate(messages=messages, sampling=sampling).token_ids == second.token_ids
    without = vlm.generate(messages=messages[1:2], sampling=sampling)
    assert without.prompt_tokens["total"] < first.prompt_tokens["total"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stop_text_ends_the_answer_before_it(vlm, picture, length):
    whole = vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=30)).text
    for start in range(1, len(whole) - length, 3):
        stop = whole[start : start + length]
        sampling = Sampling(max_new_tokens=30, stop=(stop, "never written"))
        stream = vlm.stream("what?", [picture], sampling=sampling)
        pieces = "".join(stream)
        assert pieces == stream.answer.text == whole[: whole.index(stop)]
        assert stream.answer.finish_reason == "stop"


def test_refusals_name_the_setting(vlm):
    for setting, value in (("temperature", -1), ("max_new_tokens", 0), ("top_k", -1)):
        with pytest.raises(RequestError) as refusal:
            Sampling(**{setting: value})
        assert refusal.value.setting == setting
    with pytest.raises(RequestError) as refusal:
        vlm.generate("?", budget=99)
    assert refusal.value.setting == "budget"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("budget", "6"),
        ("budget", True),
        ("budget", 6.0),
        ("images", 5),
        ("videos", 5),
        ("prompt", 5),
        ("sampling", None),
        ("sampling", {"max_new_tokens": 3}),
    ],
)
def test_values_of_another_type_are_refused_by_name(vlm, setting, value):
    with pytest.raises(RequestError, match=f"of type {type(value).__name__}: exp") as refusal:
        vlm.generate(**{"prompt": "what?", setting: value})
    assert refusal.value.setting == setting


@pytest.mark.parametrize("setting", ["budget", "context"])
@pytest.mark.parametrize("value", ["6", True, 6.0])
def test_a_model_is_loaded_with_whole_numbers(artifact_dir, setting, value):
    with pytest.raises(RequestError, match=f"{setting} is of type") as refusal:
        VLM.load(artifact_dir, **{setting: value})
    assert refusal.value.setting == setting


def test_whole_numbers_of_numpy_are_whole_numbers(artifact_dir, picture):
    budget, context = np.int64(3), np.int32(60)
    vlm = VLM.load(artifact_dir, budget=budget, context=context)
    sampling = Sampling(max_new_tokens=1)
    assert vlm.generate("?", [picture], budget=budget, sampling=sampling).visual_tokens == {
        "before": 16,
        "after": 3,
    }


@pytest.mark.parametrize("system", ["look at <image>", 5])
def test_a_system_message_is_refused_when_the_conversation_begins(vlm, system):
    with pytest.raises(RequestError, match=r"the system message (is|has)") as refusal:
        vlm.chat(system=system)
    assert refusal.value.setting == "system"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_takes_them(artifact_dir, vlm):
    whole = vlm.generate("what?", sampling=Sampling(max_new_tokens=20)).text
    stop = whole[3:5]
    arguments = ["run", artifact_dir, "--prompt", "what?", "--max-new-tokens", 20, "--json"]
    result = run(*arguments, "--stop", stop)
    assert json.loads(result.stdout)["text"] == whole[: whole.index(stop)]
    penalised = json.loads(run(*arguments, "--repetition-penalty", 1.5).stdout)
    expected = vlm.generate("what?", sampling=Sampling(max_new_tokens=20, repetition_penalty=1.5))
    assert penalised["token_ids"] == expected.token_ids
    system = json.loads(run(*arguments, "--system", "be brief").stdout)
    chat = vlm.chat(system="be brief").ask("what?", sampling=Sampling(max_new_tokens=20))
    assert system["token_ids"] == chat.token_ids
    sampled = [
        json.loads(run(*arguments, "--temperature", 2, "--seed", 3, "--top-k", 4).stdout)
        for _ in range(2)
    ]
    assert sampled[0]["token_ids"] == sampled[1]["token_ids"]
    for refused in (
        run(*arguments, "--system", "a <image> b"),
        run("chat", artifact_dir, "--system", "a <image> b"),
    ):
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr == (
            "error: the system message has <image> in its text: expected words alone; "
            "give pictures with a question\n"
        )
    refused = run(*arguments, "--min-p", 7)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: min_p 7")
