"""Answers of a scripted engine, whole and in pieces: every byte of a stream, who is cancelled, who
is sent away, and what is counted."""

import asyncio
import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pocketvlm.server.app import make_app
from pocketvlm.server.service import ServerOptions
from support.serving import (
    BEGUN,
    DETAILS,
    DIED,
    DONE,
    PATH,
    QUESTION,
    ScriptedEngine,
    asked,
    client_of,
    data_uri,
    events_of,
    exchange,
    image_part,
    picture,
    text,
)

PIECES = (BEGUN, text(" "), text(" a"), text(" b\n\u2028\ud800"), DONE)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def test_a_whole_answer():
    with client_of(ScriptedEngine(*PIECES), name="demo") as client:
        response = client.post(PATH, json=QUESTION)
    body = response.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", body.pop("id"))
    assert body.pop("created") > 1.7e9
    assert body == {
        "object": "chat.completion",
        "model": "demo",
        "system_fingerprint": "pvlm_0123456789ab",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "a b\n\u2028\ud800",  # without the space that models begin with
                    "refusal": None,
                    "pocketvlm": DETAILS,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    assert response.headers["cache-control"] == "no-store"


def test_a_stream_byte_by_byte():
    with client_of(ScriptedEngine(*PIECES), name="demo") as client:
        response = client.post(PATH, json={**QUESTION, "stream": True})
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    head = response.text.partition('"choices"')[0]
    assert re.fullmatch(
        r'data: \{"id":"chatcmpl-[0-9a-f]{24}","object":"chat\.completion\.chunk",'
        r'"created":\d+,"model":"demo","system_fingerprint":"pvlm_0123456789ab",',
        head,
    )

    def line(delta, reason="null", further=""):
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'{head}"choices":[{choice}]{further}}}\n\n'

    assert response.content.decode() == (
        line('{"role":"assistant","content":""}')
        + line('{"content":"a"}')
        + line('{"content":" b\\n\u2028\\ud800"}')
        + line("{}", '"stop"', f',"pocketvlm":{json.dumps(DETAILS, separators=(",", ":"))}')
        + "data: [DONE]\n\n"
    )


def test_a_stream_may_end_with_what_it_took():
    further = {"stream": True, "stream_options": {"include_usage": True}}
    with client_of(ScriptedEngine(*PIECES)) as client:
        response = client.post(PATH, json={**QUESTION, **further})
    *events, last = events_of(response.content)
    assert all(event["usage"] is None and event["choices"] for event in events)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert len({(event["id"], event["created"]) for event in [*events, last]}) == 1


def test_what_the_engine_is_asked():
    engine = ScriptedEngine(*PIECES)
    content = [image_part(data_uri(1)), {"type": "text", "text": "what?"}]
    with client_of(engine, base="checkpoint") as client:
        client.post(PATH, json=asked(content, budget=3, max_tokens=4, stop=["x"], seed=1))
    assert engine.asked == [
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "image": 0},
                            {"type": "text", "text": "what?"},
                        ],
                    }
                ],
                "sampling": {"base": "checkpoint", "seed": 1, "stop": ["x"]},
                "max_tokens": 4,
                "budget": 3,
                "vision_precision": None,
                "decoder_precision": None,
            },
            [picture(1)],
        )
    ]


def test_a_text_that_the_context_cannot_hold_never_gets_to_the_model():
    engine = ScriptedEngine(BEGUN, text("yes"), DONE)
    engine.facts["context"] = 10
    with client_of(engine) as client:
        statuses = [client.post(PATH, json=asked("x" * n)).status_code for n in (320, 321)]
    assert statuses == [200, 400]
    assert len(engine.asked) == 1


REFUSED = [
    (
        {"class": "RequestError", "found": "budget 99", "expected": "1..6", "setting": "budget"},
        (400, "budget", None),
    ),
    (
        {"class": "RequestError", "found": "170 tokens", "setting": "context"},
        (400, "messages", "context_length_exceeded"),
    ),
    (
        {"class": "PictureError", "found": "the picture is damaged"},
        (400, "messages", "invalid_image"),
    ),
    (
        {"class": "EngineError", "found": "/home/me/model.onnx failed"},
        (500, None, "internal_error"),
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "expected"), REFUSED)
def test_what_the_model_refuses_at_once_has_a_status(error, expected, stream):
    engine = ScriptedEngine({"kind": "refused", "error": error})
    with client_of(engine) as client:
        response = client.post(PATH, json={**QUESTION, "stream": stream})
        assert client.get("/health").json()["running"] == 0
    body = response.json()["error"]
    assert (response.status_code, body["param"], body["code"]) == expected
    assert ("home" in body["message"]) is False
    assert body["type"] == ("server_error" if expected[0] == 500 else "invalid_request_error")


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (DIED, "model_unavailable"),
        ({"kind": "failed", "reference": "abc"}, "internal_error"),
        ({"kind": "refused", "error": REFUSED[0][0]}, None),
        ({"kind": "gone"}, "model_unavailable"),
    ],
)
def test_an_answer_that_breaks_off_says_so(last, code):
    engine = ScriptedEngine(BEGUN, text("a"), last)
    with client_of(engine) as client:
        whole = client.post(PATH, json=QUESTION)
        stream = client.post(PATH, json={**QUESTION, "stream": True})
        assert client.get("/health").json()["running"] == 0
    assert whole.status_code >= 400
    assert whole.json()["error"]["code"] == code
    assert stream.status_code == 200
    *_, error, nothing = stream.text.split("\n\n")
    assert nothing == ""
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == code
    assert "[DONE]" not in stream.text


@pytest.mark.parametrize("state", ["loading", "restarting", "closed"])
def test_a_model_that_is_not_ready_is_a_503(state):
    with client_of(ScriptedEngine(state=state)) as client:
        response = client.post(PATH, json=QUESTION)
        health = client.get("/health")
    assert response.status_code == health.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert (health.json()["status"], health.json()["running"]) == (state, 0)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read():
    engine = ScriptedEngine(*PIECES)

    def parts():  # without a stated length
        yield b'{"messages": "'
        yield b"x" * 500
        yield b"x" * 600

    with client_of(engine, max_body=1000) as client:
        headers = {"Content-Type": "application/json"}
        for content in (b"x" * 1001, parts()):
            response = client.post(PATH, content=content, headers=headers)
            assert response.status_code == 413
            assert "1000 bytes" in response.json()["error"]["message"]
        assert client.post(PATH, json=QUESTION).status_code == 200


def test_another_models_name_is_refused_and_none_is_any():
    with client_of(ScriptedEngine(*PIECES), name="demo") as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "demo"
        assert client.get("/v1/models/demo").json()["pocketvlm"]["budget"] == 6
        assert client.get("/v1/models/other/one").status_code == 404
        for name, status in (("demo", 200), ("", 200), (None, 200), ("gpt-4o", 404)):
            assert client.post(PATH, json={**QUESTION, "model": name}).status_code == status


def test_too_many_requests_are_sent_away():
    async def run():
        engine = ScriptedEngine(BEGUN)
        app = make_app(ServerOptions(parallel=1, waiting=1), engine)
        running, waiting = (asyncio.ensure_future(exchange(app, QUESTION)) for _ in range(2))
        await asyncio.sleep(0.05)
        status, body = await exchange(app, QUESTION)
        assert (status, json.loads(body[0])["error"]["code"]) == (429, "queue_full")
        for number in range(2):
            engine.answers[number].put(text("x"))
            engine.answers[number].put(DONE)
            await asyncio.sleep(0.05)
        assert [(await each)[0] for each in (running, waiting)] == [200, 200]

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("events", [(), (BEGUN,), (BEGUN, text("a"))], ids=len)
def test_a_client_that_goes_cancels_its_answer_and_the_next_begins(events, stream):
    async def run():
        engine, gone = ScriptedEngine(*events), asyncio.Event()
        app = make_app(ServerOptions(parallel=1, waiting=2), engine)
        left = asyncio.ensure_future(exchange(app, {**QUESTION, "stream": stream}, gone=gone))
        await asyncio.sleep(0.02)
        next_one = asyncio.ensure_future(exchange(app, QUESTION))
        await asyncio.sleep(0.02)
        assert len(engine.answers) == 1
        engine.events = (BEGUN, text("x"), DONE)
        gone.set()
        await asyncio.wait_for(left, 5)
        await asyncio.sleep(0.02)
        assert engine.cancelled == [0]
        assert (await asyncio.wait_for(next_one, 5))[0] == 200

    asyncio.run(run())


def test_a_client_that_goes_while_it_waits_leaves_the_line():
    async def run():
        engine, gone = ScriptedEngine(BEGUN), asyncio.Event()
        app = make_app(ServerOptions(parallel=1, waiting=2), engine)
        first = asyncio.ensure_future(exchange(app, QUESTION))
        await asyncio.sleep(0.02)
        waiting = asyncio.ensure_future(exchange(app, QUESTION, gone=gone))
        await asyncio.sleep(0.02)
        assert app.state.service.queue.waiting == 1
        gone.set()
        await asyncio.wait_for(waiting, 5)
        assert app.state.service.queue.waiting == 0
        engine.answers[0].put(text("x"))
        engine.answers[0].put(DONE)
        assert (await asyncio.wait_for(first, 5))[0] == 200
        assert (len(engine.answers), engine.cancelled) == (1, [])

    asyncio.run(run())


def test_what_is_counted():
    engine = ScriptedEngine(*PIECES)
    with client_of(engine) as client:
        for _ in range(3):
            client.post(PATH, json=QUESTION)
        client.post(PATH, json={"messages": []})
        client.get("/some/path/of/a/stranger")
        engine.restarts = 2
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    expected = {
        ("pocketvlm_requests_total", PATH, "200"): 3,
        ("pocketvlm_requests_total", PATH, "400"): 1,
        ("pocketvlm_requests_total", "404", "other"): 1,
        ("pocketvlm_tokens_total", "prompt"): 21,
        ("pocketvlm_tokens_total", "cached"): 6,
        ("pocketvlm_tokens_total", "completion"): 9,
        ("pocketvlm_time_to_first_token_seconds_count",): 3,
        ("pocketvlm_queue_length",): 0,
        ("pocketvlm_answers_running",): 0,
        ("pocketvlm_model_ready",): 1,
        ("pocketvlm_model_restarts",): 2,
    }
    assert {name: values.get(name) for name in expected} == expected


def test_the_description_says_what_is_served():
    with client_of(ScriptedEngine(), api_key="k") as client:
        document = client.get("/openapi.json").json()
        routes = {route.path for route in client.app.routes}
    assert document["openapi"] == "3.1.0"
    for path, methods in document["paths"].items():
        assert path.replace("{name}", "{name:path}") in routes
        for method in methods.values():
            assert "401" in method["responses"] or method["operationId"] == "health"
    assert document["components"]["securitySchemes"]
    assert document["paths"]["/health"]["get"]["security"] == []  # not even the document's own
