"""Who is let in: by host, by the page that asks, by key and by content type; and what every
response says to browsers."""

import json
import logging

import pytest

from pocketvlm.errors import EngineError
from pocketvlm.server import app as app_module
from support.serving import BEGUN, DONE, PATH, QUESTION, ScriptedEngine, client_of, text

ENGINE = (BEGUN, text("yes"), DONE)


@pytest.fixture
def engine():
    return ScriptedEngine(*ENGINE)


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("localhost", {}, 200),
        ("LOCALHOST:8080", {}, 200),
        ("127.0.0.1:9", {}, 200),
        ("[::1]:8080", {}, 200),
        ("evil.example", {}, 403),
        ("evil.example:8080", {}, 403),
        ("localhost.evil.example", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("192.168.1.5", {}, 403),  # the connection did not come in there
        ("", {}, 403),
        ("[::1", {}, 403),
        ("localhost:x", {}, 403),
        ("user@localhost", {}, 403),
        ("box.lan", {"host": "box.lan"}, 200),
        ("box.lan:8080", {"hosts": ("Box.LAN",)}, 200),
        ("anything", {"hosts": ("*",)}, 200),
    ],
)
def test_only_names_of_this_server_are_answered(engine, host, options, status):
    with client_of(engine, **options) as client:
        response = client.get("/v1/models", headers={"Host": host})
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "host_not_allowed"


def test_the_address_that_a_connection_came_in_at_is_a_name_of_this_server(engine):
    with client_of(engine, host="0.0.0.0") as client:
        client.base_url = "http://192.168.1.5:8080"
        assert client.get("/v1/models").status_code == 200
        client.base_url = "http://evil.example:8080"
        assert client.get("/v1/models").status_code == 403


@pytest.mark.parametrize(
    ("origin", "options", "status"),
    [
        ("http://127.0.0.1:8080", {}, 200),
        ("https://127.0.0.1:8080", {}, 200),  # behind a proxy
        ("http://127.0.0.1:9999", {}, 403),
        ("https://evil.example", {}, 403),
        ("null", {}, 403),
        ("https://good.example", {"origins": ("https://good.example",)}, 200),
        ("https://evil.example", {"origins": ("https://good.example",)}, 403),
        ("https://evil.example", {"origins": ("*",)}, 200),
    ],
)
def test_only_pages_of_this_server_may_ask(engine, origin, options, status):
    with client_of(engine, **options) as client:
        response = client.post(PATH, json=QUESTION, headers={"Origin": origin})
        preflight = client.options(
            PATH,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,x-stainless-os",
            },
        )
    assert response.status_code == status
    assert len(engine.asked) == (status == 200)
    elsewhere = status == 200 and "example" in origin
    for each in (response, preflight):
        assert ("access-control-allow-origin" in each.headers) == elsewhere
    assert preflight.is_success == elsewhere


def test_a_page_that_may_ask_may_read_why_it_is_refused(engine):
    origin = "https://good.example"
    with client_of(engine, origins=(origin,), api_key="secret") as client:
        response = client.post(PATH, json=QUESTION, headers={"Origin": origin})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_form_can_send_is_refused(engine, kind):
    """These need no preflight: a page elsewhere can send them without being asked."""
    with client_of(engine) as client:
        response = client.post(PATH, content=json.dumps(QUESTION), headers={"Content-Type": kind})
    assert response.status_code == 415
    assert not engine.asked


def test_json_may_say_its_encoding_and_nothing_is_inflated(engine):
    with client_of(engine) as client:
        plain = {"Content-Type": "Application/JSON; charset=utf-8"}
        body = json.dumps(QUESTION)
        assert client.post(PATH, content=body, headers=plain).status_code == 200
        packed = {**plain, "Content-Encoding": "gzip"}
        assert client.post(PATH, content=body, headers=packed).status_code == 415


@pytest.mark.parametrize(
    ("stated", "status"),
    [
        ("Bearer secret", 200),
        ("bearer  secret ", 200),
        ("Bearer secre", 401),
        ("Bearer secretx", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer s\u00e9cret", 401),
        (None, 401),
    ],
)
def test_a_key_is_asked_for(engine, stated, status):
    headers = {} if stated is None else {"Authorization": stated.encode("latin-1")}
    with client_of(engine, api_key="secret") as client:
        responses = [
            client.post(PATH, json=QUESTION, headers=headers),
            client.get("/v1/models", headers=headers),
            client.get("/metrics", headers=headers),
        ]
        assert [each.status_code for each in responses] == [status] * 3
        assert client.get("/health").status_code == 200
        assert client.get("/openapi.json").status_code == 200
    if status == 401:
        assert responses[0].json()["error"]["code"] == "invalid_api_key"
        assert responses[0].headers["www-authenticate"] == "Bearer"
    assert len(engine.asked) == (status == 200)


def test_every_response_tells_browsers_what_it_may_be_used_for(engine):
    with client_of(engine) as client:
        responses = [
            client.get("/"),
            client.get("/health"),
            client.get("/nothing"),
            client.put(PATH),
            client.post(PATH, json=QUESTION),
            client.get("/", headers={"Host": "evil.example"}),
        ]
    assert [each.status_code for each in responses] == [200, 200, 404, 405, 200, 403]
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-opener-policy"] == "same-origin"
        assert response.headers["cross-origin-embedder-policy"] == "require-corp"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in response.headers
    assert responses[3].headers["allow"] == "POST"
    for response in responses[2:4]:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_fault_leaves_a_reference_and_its_reason_in_the_log(engine, caplog):
    def ask(*_):
        raise ZeroDivisionError("/secret/path")

    engine.ask = ask
    with client_of(engine) as client, caplog.at_level(logging.ERROR):
        response = client.post(PATH, json=QUESTION)
        assert client.get("/health").json()["running"] == 0
    assert response.status_code == 500
    message = response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    reference = message.split()[-1]
    assert reference in caplog.text
    assert "ZeroDivisionError: /secret/path" in caplog.text


def test_the_page_and_the_facts_are_served_and_nothing_beside_them(engine, tmp_path, monkeypatch):
    for name, content in {
        "index.html": "<p>the page</p>",
        "app.mjs": "export {};",
        "package.json": "{}",
        "using.json": '{"k": 36}',
    }.items():
        (tmp_path / name).write_text(content)
    page = {name: tmp_path / name for name in ("index.html", "app.mjs")}
    monkeypatch.setattr(app_module, "page_files", lambda: page)
    with client_of(engine, name="demo", using=str(tmp_path / "using.json")) as client:
        assert client.get("/").text == client.get("/index.html").text == "<p>the page</p>"
        assert "javascript" in client.get("/app.mjs").headers["content-type"]
        assert client.get("/using.json").json() == {"k": 36}
        site = client.get("/site.json").json()
        assert (site["back_end"], site["models"]) == ("server", [{"name": "demo"}])
        for path in ("/package.json", "/../package.json", "/%2e%2e/x", "/..%2fx", "//etc/passwd"):
            assert client.get(path).status_code == 404


def test_without_the_page_a_line_says_what_this_is(engine, monkeypatch):
    def none():
        raise EngineError("this installation has no web page")

    monkeypatch.setattr(app_module, "page_files", none)
    with client_of(engine) as client:
        response = client.get("/")
    assert response.headers["content-type"].startswith("text/plain")
    assert "pocketvlm serve" in response.text
