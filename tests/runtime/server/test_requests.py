"""What a request may hold: JSON within bounds, settings within their ranges, messages with pictures
in them; every refusal names what it is about."""

import base64
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketvlm import Sampling
from pocketvlm.server.bodies import parse_object
from pocketvlm.server.errors import Refusal
from pocketvlm.server.messages import read_messages
from pocketvlm.server.settings import PROPERTIES, read_settings
from support.serving import asked, data_uri, image_part, picture, text_part

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def refused(read, *given):
    with pytest.raises(Refusal) as caught:
        read(*given)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value


def outcome(read, given):
    """What it reads, or the refusal."""
    try:
        return read(given)
    except Refusal as refusal:
        return refusal


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80) | JSON.map(lambda data: json.dumps(data).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 5000 + b"1" + b"}" * 5000)
@example(b'{"a":' + b"9" * 5000 + b"}")
@example(b'{"a": 1e400}')
@example(b'{"a": NaN}')
@example(b'{"a": "\xff"}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": [' + b"0," * 300_000 + b"0]}")
def test_any_bytes_are_an_object_or_a_refusal(body):
    result = outcome(parse_object, body)
    if isinstance(result, Refusal):
        assert result.status == 400
        json.dumps(result.to_dict())
    else:
        assert isinstance(result, dict)


def test_depth_is_bounded():
    def nested(depth):
        return b'{"a":' + b"[" * depth + b"]" * depth + b"}"

    assert parse_object(nested(63))
    assert refused(parse_object, nested(64)).code == "too_deep"


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PROPERTIES)), JSON, max_size=4))
def test_any_settings_are_read_or_refused(body):
    result = outcome(read_settings, body)
    if isinstance(result, Refusal):
        assert result.status == 400
        assert result.param
    else:
        Sampling(**result.sampling)
        json.dumps(result.sampling)


def test_settings_become_those_of_the_runtime():
    body = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40.0,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": -1.5,
        "frequency_penalty": 2,
        "logit_bias": {"20": -100},
        "seed": 7,
        "stop": "\n",
        "max_tokens": 9,
        "max_completion_tokens": 5,
        "budget": 3,
        "precision": "int8",
        "vision_precision": "fp32",
        "stream": True,
        "stream_options": {"include_usage": True},
        "model": "demo",
        "user": "somebody",
        "reasoning_effort": {"unknown": "keys are ignored"},
    }
    stated = read_settings(body)
    assert Sampling(**stated.sampling) == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=-1.5,
        frequency_penalty=2,
        logit_bias=((20, -100),),
        seed=7,
        stop=("\n",),
    )
    assert (stated.max_tokens, stated.budget, stated.model) == (5, 3, "demo")
    assert (stated.decoder_precision, stated.vision_precision) == ("int8", "fp32")
    assert (stated.stream, stated.include_usage) == (True, True)


def test_what_is_null_or_asks_for_nothing_is_left_out():
    body = dict.fromkeys(PROPERTIES) | {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "seed": -1,
    }
    assert read_settings(body) == read_settings({})


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"type": "json_object"}, "object"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}},
            {"type": "null"},
        ),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "object"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}, {}),
    ],
)
def test_a_response_format_is_a_schema_of_the_runtimes(stated, expected):
    schema = read_settings({"response_format": stated}).sampling["json_schema"]
    assert schema == expected


@pytest.mark.parametrize("stated", [{}, {"schema": {"type": "null"}}])
def test_a_schema_that_is_not_where_it_belongs_is_not_any_object(stated):
    refusal = refused(read_settings, {"response_format": {"type": "json_schema", **stated}})
    assert refusal.param == "response_format.json_schema"


UNSERVED = {
    "n": 2,
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [{}],
    "function_call": {"name": "f"},
    "logprobs": True,
    "top_logprobs": 3,
    "audio": {"voice": "x"},
    "modalities": ["text", "audio"],
}


@pytest.mark.parametrize("key", UNSERVED)
def test_what_would_change_the_answer_and_is_not_done_is_refused(key):
    refusal = refused(read_settings, {key: UNSERVED[key]})
    assert (refusal.param, refusal.code) == (key, "unsupported_value")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 1]}, "stop.1"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"budget": 0}, "budget"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"20": 101}}, "logit_bias.20"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"repetition_penalty": 10**400}, "repetition_penalty"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(body, param):
    assert refused(read_settings, body).param == param


def test_a_refusal_that_quotes_a_request_is_one_line():
    with pytest.raises(Refusal) as refusal:
        read_settings({"logit_bias": {"a\r\nb": -101}})
    message = "logit_bias.a b must be bigger than or equal to -100"
    assert refusal.value.message == str(refusal.value) == message


def test_pictures_are_taken_out_of_the_messages():
    body = {
        "messages": [
            {"role": "developer", "content": "One word."},
            {
                "role": "user",
                "name": "ignored",
                "content": [
                    text_part("left"),
                    image_part(data_uri(1)),
                    {"type": "image_url", "image_url": data_uri(2, "JPEG"), "detail": "low"},
                ],
            },
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": "and now?"},
        ]
    }
    read = read_messages(body)
    assert read.pictures == [picture(1), picture(2, "JPEG")]
    assert read.messages == [
        {"role": "system", "content": [text_part("One word.")]},
        {
            "role": "user",
            "content": [
                text_part("left"),
                {"type": "image", "image": 0},
                {"type": "image", "image": 1},
            ],
        },
        {"role": "assistant", "content": [text_part("red")]},
        {"role": "user", "content": [text_part("and now?")]},
    ]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        ([{"role": "user", "content": "x"}] * 1001, "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [1]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "assistant", "content": "x"}], "messages[0]"),
        (
            [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
            "messages[0].tool_calls",
        ),
        ([{"role": "system", "content": [image_part(data_uri())]}], "messages[0].content[0]"),
    ],
)
def test_a_message_that_is_none_is_refused_by_its_place(messages, param):
    assert refused(read_messages, {"messages": messages}).param == param


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://example.com/a.png", "nothing is fetched"),
        ("HTTPS://example.com/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("/etc/passwd", "must be a data: URI"),
        ("data:image/png,abc", "must be a data: URI"),
        ("data:text/html;base64,QUJD", "must be a picture"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,QUJ", "base64"),
        ("data:image/png;base64,Q U J D", "base64"),
        ("data:image/png;base64,\u00e4\u00e4\u00e4\u00e4", "base64"),
        ("data:" + ";a=b" * 9999 + ";base64,QUJD", "must be a data: URI"),
        (None, "must be a data: URI"),
        (7, "must be a data: URI"),
    ],
)
def test_a_picture_comes_as_its_own_bytes_or_is_refused(uri, reason):
    refusal = refused(read_messages, asked([image_part(uri)]))
    assert reason in refusal.message
    assert refusal.param == "messages[0].content[0].image_url.url"


def test_a_text_that_no_context_holds_is_refused_before_it_is_tokenized():
    """Tokenizers cannot be stopped: one such text kept a place busy for minutes."""
    parts = [text_part("x" * 1600), image_part(data_uri()), text_part("\U0001f600" * 1600)]
    assert len(read_messages(asked(parts), 100).pictures) == 1
    refusal = refused(read_messages, asked([*parts, text_part("x")]), 100)
    assert (refusal.param, refusal.code) == ("messages", "context_length_exceeded")
    assert "3201 characters" in refusal.message


def test_there_are_not_too_many_pictures():
    parts = [image_part(data_uri(size=(1, 1)))] * 32
    assert len(read_messages(asked(parts)).pictures) == 32
    assert "one picture too many" in refused(read_messages, asked(parts * 2)).message


@settings(max_examples=60, deadline=None)
@given(JSON | st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=3))
def test_any_messages_are_read_or_refused(messages):
    result = outcome(read_messages, {"messages": messages})
    if isinstance(result, Refusal):
        assert result.status == 400
        assert result.param.startswith("messages")
    else:
        assert result.messages[-1]["role"] == "user"


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_arrive_as_they_were(data):
    uri = f"data:;base64,{base64.b64encode(data).decode()}"
    assert read_messages(asked([image_part(uri)])).pictures == [data]
