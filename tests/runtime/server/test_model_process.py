"""The model in its process: answers are those of `VLM.generate`, whoever else is answered; a
process that dies is started again, and nobody waits for one that is gone."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time

import pytest
from starlette.testclient import TestClient

from pocketvlm import VLM, EngineSettings, Sampling
from pocketvlm.errors import ArtifactError, EngineError, RequestError
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm.server.app import make_app
from pocketvlm.server.process import ModelProcess
from pocketvlm.server.service import ServerOptions
from pocketvlm.server.worker import Setup
from support.serving import (
    BASE,
    PATH,
    asked,
    data_uri,
    events_of,
    exchange,
    image_part,
    picture,
    text_part,
)
from support.tiny_artifact import read_manifest, write_artifact, write_manifest
from support.tiny_graphs import CONTEXT

OPTIONS = {"settings": EngineSettings(threads=1)}
QUESTIONS = [
    ("what is it?", (0,), {}),
    ("a red square", (), {"temperature": 1.5, "top_k": 20, "seed": 3}),
    ("is it?", (1,), {"budget": 3}),
    ("both?", (0, 1), {"repetition_penalty": 1.3, "budget": 12}),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root, budgets=(6, 12))
    return root


@pytest.fixture(scope="module")
def engine(artifact):
    process = ModelProcess(Setup(str(artifact), OPTIONS))
    process.start()
    yield process
    process.close()


@pytest.fixture
def client(engine):
    app = make_app(ServerOptions(name="tiny", parallel=4), engine)
    with TestClient(app, base_url=BASE) as client:
        yield client


def body_of(question, pictures, settings, **further):
    parts = [*(image_part(data_uri(seed)) for seed in pictures), text_part(question)]
    return asked(parts, max_tokens=12, **settings, **further)


@pytest.fixture(scope="module")
def alone(artifact):
    """What `VLM.generate` answers to each question, at its own budget."""
    answers = []
    for question, pictures, settings in QUESTIONS:
        settings = dict(settings)
        budget = settings.pop("budget", 6)
        vlm = VLM.load(artifact, budget=budget, settings=OPTIONS["settings"])
        sampling = Sampling(max_new_tokens=12, **settings)
        images = [picture(seed) for seed in pictures]
        answers.append(vlm.generate(question, images, sampling=sampling))
    return answers


def content(body):
    return body["choices"][0]["message"]["content"]


def test_answers_are_those_of_the_library(client, alone):
    for (question, pictures, settings), expected in zip(QUESTIONS, alone, strict=True):
        body = client.post(PATH, json=body_of(question, pictures, settings)).json()
        assert content(body) == expected.text.lstrip()
        assert body["usage"]["completion_tokens"] == len(expected.token_ids)
        assert body["usage"]["prompt_tokens"] == expected.prompt_tokens["total"]
        details = body["choices"][0]["message"]["pocketvlm"]
        assert details["token_ids"] == expected.token_ids
        assert details["visual_tokens"] == expected.visual_tokens["after"]
        assert details["visual_tokens_before"] == expected.visual_tokens["before"]
        assert [each["tiles"][0]["kept"] for each in details["kept"]] == expected.kept_indices
        for each in details["kept"]:
            assert (each["width"], each["height"]) == (40, 30)
            assert each["tokens_before"] == 16
            (tile,) = each["tiles"]
            assert (tile["rows"], tile["columns"], tile["whole"]) == (4, 4, False)
            assert len(tile["patches"]) == each["tokens_kept"] == len(tile["kept"])


def test_many_at_once_get_what_each_gets_alone(client, alone):
    results, start = {}, threading.Barrier(8)

    def ask(number):
        question, pictures, settings = QUESTIONS[number % 4]
        start.wait()
        stream = number >= 4
        response = client.post(PATH, json=body_of(question, pictures, settings, stream=stream))
        results[number] = response

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(4):
        expected = alone[number].text.lstrip()
        assert content(results[number].json()) == expected
        events = events_of(results[number + 4].content)
        pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
        assert "".join(pieces) == expected
        kept = [each["tiles"][0]["kept"] for each in events[-1]["pocketvlm"]["kept"]]
        assert kept == alone[number].kept_indices


def test_a_conversation_is_read_as_a_whole_and_its_beginning_is_not_computed_again(
    client, artifact
):
    first = body_of("what is it?", (0,), {})
    answer = content(client.post(PATH, json=first).json())
    more = [{"role": "assistant", "content": answer}, {"role": "user", "content": "and?"}]
    body = client.post(PATH, json={**first, "messages": [*first["messages"], *more]}).json()
    parts = [{"type": "image", "image": picture(0)}, text_part("what is it?")]
    messages = [{"role": "user", "content": parts}, *more]
    expected = VLM.load(artifact).generate(messages=messages, sampling=Sampling(max_new_tokens=12))
    assert content(body) == expected.text.lstrip()
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_without_a_limit_the_answer_may_fill_the_context(client):
    body = client.post(PATH, json=asked("what?")).json()
    used = body["usage"]
    if body["choices"][0]["finish_reason"] == "length":
        # The last token picked is never fed back, so it takes no room.
        assert used["total_tokens"] == CONTEXT + 1
    assert used["completion_tokens"] > 12


def test_a_stop_text_ends_the_answer_before_it(client, alone):
    whole = alone[0].text.lstrip()
    stop = whole[3:5]
    for stated in (stop, ["never in there", stop]):
        body = client.post(PATH, json=body_of("what is it?", (0,), {}, stop=stated)).json()
        assert content(body) == whole[: whole.index(stop)]
        assert body["choices"][0]["finish_reason"] == "stop"


def test_answers_are_held_to_a_schema(client, artifact):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    stated = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = client.post(PATH, json=asked("what?", response_format=stated, max_tokens=40)).json()
    sampling = Sampling(max_new_tokens=40, json_schema=schema)
    assert content(body) == VLM.load(artifact).generate("what?", sampling=sampling).text.lstrip()
    assert json.loads(content(body))["n"] in (1, 22)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (
            asked(
                "what?",
                response_format={"type": "json_schema", "json_schema": {"schema": {"type": "x"}}},
            ),
            "response_format",
            "schema",
        ),
        (body_of("what?", (0,), {"budget": 13}), "budget", "1..12"),
        (body_of("what?", (0,), {"precision": "int3"}), "decoder_precision", "fp32"),
        (body_of("what?", (0,), {"vision_precision": "x"}), "vision_precision", "fp32"),
        (asked("x" * 400), "messages", str(CONTEXT)),
        (asked("what?", max_tokens=500), "messages", str(CONTEXT)),
        (asked("an <image> in words"), "messages", "<image>"),
        (asked([image_part("data:image/png;base64,QUJD")]), "messages", "picture"),
        (asked([image_part(data_uri()[:-40])]), "messages", "truncated"),
    ],
)
def test_what_the_model_cannot_serve_is_a_400_in_its_words(client, body, param, words):
    for stream in (False, True):
        response = client.post(PATH, json={**body, "stream": stream})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert words in error["message"]


def test_models_say_what_may_be_asked_for(client):
    facts = client.get("/v1/models/tiny").json()["pocketvlm"]
    assert (facts["budget"], facts["budgets"], facts["smaller_budgets"]) == (6, [6, 12], True)
    assert facts["decoder_precisions"] == facts["vision_precisions"] == ["fp32"]
    assert facts["context"] == CONTEXT


def test_a_client_that_goes_frees_the_model_for_the_next(engine):
    async def run():
        app, gone = make_app(ServerOptions(parallel=1), engine), asyncio.Event()
        left = asyncio.ensure_future(exchange(app, body_of("what?", (0,), {}), gone=gone))
        gone.set()
        await asyncio.wait_for(left, 20)
        return await asyncio.wait_for(exchange(app, asked("what?", max_tokens=2)), 20)

    assert asyncio.run(run())[0] == 200


def test_a_process_that_is_killed_is_started_again_and_nobody_waits_for_it(engine, client):
    restarts, pid = engine.restarts, engine.pid
    # Stopped, it answers nobody until it is killed.
    os.kill(pid, signal.SIGSTOP)
    responses = []

    def ask(stream):
        responses.append(client.post(PATH, json=asked("what?", max_tokens=150, stream=stream)))

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
    for thread in threads:
        thread.start()
    wait_until(lambda: client.get("/health").json()["running"] == 2)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert [response.status_code for response in responses] == [503, 503]
    assert all(response.headers["retry-after"] for response in responses)
    while (response := client.post(PATH, json=asked("what?", max_tokens=2))).status_code != 200:
        assert response.status_code == 503
        time.sleep(0.05)
    assert client.get("/health").json()["running"] == 0
    assert engine.restarts == restarts + 1
    assert engine.pid != pid


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_artifact_replaced_while_requests_run_answers_as_the_old_one_or_the_new_one(tmp_path):
    """The process that has it is killed meanwhile, and started again with what is there by then."""
    place, other = tmp_path / "artifact", tmp_path / "other"
    texts = []
    for folder, seed in ((place, 0), (other, 1)):
        write_artifact(folder, seed=seed)
        answer = VLM.load(folder, **OPTIONS).generate("what?", sampling=Sampling(max_new_tokens=12))
        texts.append(answer.text)
    assert texts[0] != texts[1]
    process = ModelProcess(Setup(str(place), OPTIONS))
    process.start()
    answers, ended = [], threading.Event()
    app = make_app(ServerOptions(name="tiny", parallel=4), process)
    with TestClient(app, base_url=BASE) as client:

        def ask():
            while not ended.is_set():
                response = client.post(PATH, json=asked("what?", max_tokens=12))
                if response.status_code == 200:
                    answers.append(response.json()["choices"][0]["message"]["content"])
                else:
                    assert response.status_code == 503
                    time.sleep(0.05)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            wait_until(lambda: answers)
            before = content_of(place)
            with staged(place) as folder:
                shutil.copytree(other, folder, dirs_exist_ok=True)
                put_in_place(folder, place, before)
            os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda: texts[1] in answers)
        finally:
            ended.set()
            thread.join(30)
    process.close()
    assert answers == sorted(answers, key=texts.index)  # first the old one, then the new one


def test_an_artifact_that_is_refused_is_refused_at_once(artifact, tmp_path):
    for setup, kind in (
        (Setup(str(tmp_path)), ArtifactError),
        (Setup(str(artifact), {**OPTIONS, "budget": 99}), RequestError),
    ):
        process = ModelProcess(setup)
        with pytest.raises(kind):
            process.start()
        process.close()
        assert process.state == "closed"


def test_a_process_that_dies_while_it_loads_is_not_started_for_ever(tmp_path):
    write_artifact(tmp_path / "artifact")
    manifest = read_manifest(tmp_path / "artifact")
    write_manifest(tmp_path / "artifact", manifest)
    process = ModelProcess(Setup(str(tmp_path / "artifact"), {"no such option": 1}))
    with pytest.raises(EngineError, match="ended while it loaded"):
        process.start()
    process.close()
