"""The page's own files: labelled, complete, nothing of them from elsewhere, and what needs no
browser computed by Node."""

import base64
import json
import random
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import pocketvlm
from pocketvlm.web import page_files, page_folder
from pocketvlm.web.libraries import addresses, libraries

FILES = page_files()
MODULES = sorted(name for name in FILES if name.endswith(".mjs"))
FIELDS = {"input", "textarea", "select", "progress"}
# What the page says of addresses, none of which it asks.
MENTIONED = {"https://host/my-artifact/", "https:", "http://localhost:*", "http://127.0.0.1:*"}
NAMESPACES = ("http://www.w3.org/2000/svg", "http://ns.adobe.com/xap/1.0/")  # names, no addresses
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


class Page(HTMLParser):
    """What the page is made of."""

    def __init__(self):
        super().__init__()
        self.ids, self.labelled, self.fields, self.buttons, self.references = [], set(), [], [], []
        self.languages, self.open_button = [], None
        self.feed(FILES["index.html"].read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        if "id" in own:
            self.ids.append(own["id"])
        if tag == "html":
            self.languages.append(own.get("lang"))
        if tag == "label" and "for" in own:
            self.labelled.add(own["for"])
        if tag in FIELDS:
            self.fields.append((own, tag))
        if tag == "button":
            self.open_button = own | {"text": ""}
        if tag == "label" and "for" not in own:
            self.labelled.add("show-kept")  # around its field
        self.references += [own[name] for name in ("src", "href") if name in own]

    def handle_data(self, data):
        if self.open_button is not None:
            self.open_button["text"] += data.strip()

    def handle_endtag(self, tag):
        if tag == "button":
            self.buttons.append(self.open_button)
            self.open_button = None


@pytest.fixture(scope="module")
def page():
    return Page()


def test_every_field_and_button_has_a_name(page):
    for own, tag in page.fields:
        named = own.get("aria-label") or own.get("aria-labelledby") or own["id"] in page.labelled
        assert named, (tag, own)
    for own in page.buttons:
        assert own["text"] or own.get("aria-label"), own
    assert page.languages == ["en"]
    assert page.labelled <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_element_that_modules_ask_for_is_there(page):
    asked = set(re.findall(r'\$\("([\w-]+)"\)', FILES["app.mjs"].read_text(encoding="utf-8")))
    assert len(asked) > 20
    assert asked <= set(page.ids)


def test_nothing_comes_from_elsewhere(page):
    for reference in page.references:
        assert reference in FILES
    for name, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        for namespace in NAMESPACES:
            text = text.replace(namespace, "")
        text = re.sub(r"^\s*(//|\*).*$", "", text, flags=re.MULTILINE)  # sources in comments
        named = {match.rstrip("\"';,`)>") for match in re.findall(r"https?://?[^\s\"'`<]*", text)}
        assert named <= {*MENTIONED, "http:", "http://host"}, name


def test_modules_import_files_that_are_there_and_libraries_that_are_pinned():
    places = addresses(libraries())
    bare = set()
    for name in MODULES:
        text = FILES[name].read_text(encoding="utf-8")
        for imported in re.findall(r"(?:from|import)\s*\(?\s*\"([^\"]+)\"", text):
            if imported.startswith("./"):
                assert imported[2:] in FILES, (name, imported)
            elif not imported.startswith("node:"):
                bare.add(imported)
    assert bare <= places.keys()
    assert bare >= {"onnxruntime-web/wasm", "onnxruntime-web/webgpu"}


def test_colours_of_light_and_dark_are_the_same_set():
    style = FILES["style.css"].read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    named = [set(re.findall(r"(--[\w-]+):", part)) for part in (light, dark)]
    assert named[1] == named[0] - {"--radius"}
    assert set(re.findall(r"var\((--[\w-]+)", style)) <= named[0] | {"--bar"}
    assert "prefers-reduced-motion" in style


def test_the_policy_allows_no_other_host_to_run_code(page):
    policy = re.search(r'Security-Policy" content="([^"]+)"', FILES["index.html"].read_text())[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "http" not in rules["script-src"]
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy


@needs_node
def test_modules_are_read_by_node():
    """What browsers alone have is not called when a module is read."""
    checks = [
        subprocess.run(
            ["node", "--check", FILES[name]], capture_output=True, text=True, check=False
        )
        for name in (*MODULES, "offline.js")
    ]
    assert [done.stderr for done in checks if done.returncode] == []


def by_node(program, data):
    """What a module that reads ``data`` prints as JSON."""
    names = {name: path.as_uri() for name, path in FILES.items()}
    program = re.sub(r'"\./(\w+\.mjs)"', lambda match: f'"{names[match[1]]}"', program)
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


READ = 'import { readFileSync } from "node:fs"; const given = JSON.parse(readFileSync(0, "utf8"));'


@needs_node
def test_the_slider_gives_up_patches_by_their_scores():
    """A budget of j keeps the first j of the ranking: the j best, ties to the lower row."""
    rng = np.random.default_rng(7)
    cases = [(rng.integers(0, 4, rng.integers(1, 12)) / 4).tolist() for _ in range(30)]
    program = (
        'import { bestFirst } from "./seen.mjs";' + READ + "console.log(JSON.stringify("
        "given.map((scores) => Array.from(bestFirst(Float32Array.from(scores))))));"
    )
    best = [np.lexsort((np.arange(len(scores)), -np.array(scores))).tolist() for scores in cases]
    assert by_node(program, cases) == best
    program = (
        'import { offered } from "./kept.mjs"; console.log(JSON.stringify('
        "[offered([36, 7], true).length, offered([36, 7], false), offered([], true)]));"
    )
    assert by_node(program, None) == [36, [7, 36], []]


def png(width, height, lines):
    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [("IHDR", header), ("IDAT", zlib.compress(lines)), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name.encode(), part) for name, part in parts)


@needs_node
def test_a_png_is_unpacked_to_its_size_and_no_further():
    rng = np.random.default_rng(3)
    samples = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in samples)
    files = [png(7, 5, lines), png(7, 5, lines[:-1]), png(7, 5, lines + bytes(1 << 26))]
    program = (
        'import { decodePng } from "./png.mjs";' + READ + "const results = [];"
        'for (const file of given) results.push(await decodePng(Buffer.from(file, "base64"))'
        ".then(({ data }) => Array.from(data), ({ message }) => message));"
        "console.log(JSON.stringify(results));"
    )
    sound, short, long = by_node(program, [base64.b64encode(file).decode() for file in files])
    rgba = np.concatenate([samples, np.full((5, 7, 1), 255, np.uint8)], axis=-1)
    assert sound == rgba.ravel().tolist()
    assert "cut off or damaged" in short
    assert "cut off or damaged" in long


@needs_node
def test_a_gpu_is_not_trusted_with_a_decoder_that_no_self_test_reaches():
    program = (
        'import { openTrusted } from "./loading.mjs"; const results = [];'
        "const facts = { nested: true, layers: 1, vision: { default_budget: 36 } };"
        'const ort = { InferenceSession: { create: async () => { throw new Error("opened"); } } };'
        "const files = { path: null, bytes: async () => new Uint8Array() };"
        "for (const budget of [7, 36, 72]) await openTrusted("
        '{ ort, files, facts: { ...facts, weights: {} }, choice: { budget, vision: "v" } },'
        ' "webgpu").catch(({ message }) => results.push(message));'
        "console.log(JSON.stringify(results));"
    )
    small, usual, large = by_node(program, None)
    assert "behind 7 tokens" in small
    assert "opened" in usual
    assert "opened" in large


@needs_node
def test_bars_follow_each_other_up_to_the_first_token():
    program = (
        'import { layOut, duration } from "./bars.mjs";'
        + READ
        + "console.log(JSON.stringify([layOut(given), [0.44, 37.6, 1234].map(duration)]));"
    )
    timings = {"preprocess": 10, "vision": 60, "prefill": 30, "ttft": 100, "decode": 25}
    rows, words = by_node(program, timings)
    assert [(row["stage"], row["start"], row["share"]) for row in rows] == [
        ("preprocess", 0, pytest.approx(0.1)),
        ("vision", pytest.approx(0.1), pytest.approx(0.6)),
        ("prefill", pytest.approx(0.7), pytest.approx(0.3)),
        ("ttft", 0, 1),
        ("decode", 0, 0.25),
    ]
    assert words == ["0.4 ms", "38 ms", "1.23 s"]


@needs_node
def test_downloads_are_counted_by_bytes():
    program = (
        'import { Downloads, megabytes } from "./progress.mjs"; const d = new Downloads();'
        + READ
        + "console.log(JSON.stringify([given.map((each) => d.note(each)), megabytes(4.25e6)]));"
    )
    steps = [
        {"file": "a", "loaded": 10, "total": 100},
        {"file": "b", "loaded": 50, "total": 100},
        {"file": "a", "loaded": 100, "total": 100},
        {"file": "c", "loaded": 7, "total": 0},
    ]
    noted, words = by_node(program, steps)
    assert [each["share"] for each in noted] == [0.1, 0.3, 0.75, None]
    assert noted[-1]["loaded"] == 157
    assert words == "4.3 MB" or words == "4.2 MB"


@needs_node
def test_a_stream_of_events_is_read_wherever_it_is_cut():
    """In characters of several bytes, and between the two ends of a line, too."""
    texts = ["plain", '{"content": "Grün ▲ 😀"}', "two\nlines", "[DONE]"]
    stream = "".join(
        "".join(f"data: {line}\r\n" for line in text.split("\n")) + "\r\n" for text in texts
    )
    stream = ": a comment\r\n\r\n" + stream
    draw, data = random.Random(3), stream.encode()
    cases = []
    for _ in range(20):
        cuts = sorted(draw.sample(range(1, len(data)), 12))
        cases.append([list(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    program = (
        'import { events } from "./remote.mjs";'
        + READ
        + """
        const results = [];
        for (const pieces of given) {
          const body = new ReadableStream({ start(controller) {
            for (const piece of pieces) controller.enqueue(Uint8Array.from(piece));
            controller.close();
          } });
          const read = [];
          for await (const event of events(body)) read.push(event);
          results.push(read);
        }
        console.log(JSON.stringify(results));
        """
    )
    assert by_node(program, cases) == [texts] * len(cases)


@needs_node
def test_conversations_have_the_picture_first():
    program = (
        'import { messagesOf } from "./conversation.mjs";'
        "console.log(JSON.stringify(messagesOf([{question: 'a', answer: 'b'}], 'c', "
        "{type: 'image'})));"
    )
    first, answer, last = by_node(program, None)
    assert first["content"] == [{"type": "image"}, {"type": "text", "text": "a"}]
    assert answer == {"role": "assistant", "content": "b"}
    assert last["content"] == [{"type": "text", "text": "c"}]


def test_the_page_asks_for_facts_that_the_server_gives():
    remote = FILES["remote.mjs"].read_text(encoding="utf-8")
    (read,) = re.findall(r"const \{([^}]*)\} = entry\.pocketvlm", remote)
    names = {name.strip() for name in read.split(",")}
    source = Path(pocketvlm.__file__).with_name("server") / "models.py"
    given = set(re.findall(r'^ +"(\w+)": ', source.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"budget", "budgets"} <= names <= given


@needs_node
def test_what_an_address_lacks_is_said():
    program = (
        'import { inWords, lacking } from "./words.mjs";'
        "const bare = new DOMException('x', 'NotAllowedError');"
        "console.log(JSON.stringify([lacking({secure: false}), "
        "lacking({secure: true, caches: true, isolated: true}), "
        "lacking({secure: true, caches: false, isolated: false}).length, inWords(bare), "
        "inWords(new TypeError('Failed to fetch')), inWords(new Error('its own words'))]));"
    )
    plain, nothing, both, camera, network, own = by_node(program, None)
    assert "plain http" in plain[0]
    assert nothing == []
    assert both == 2
    assert "not allowed" in camera
    assert "could not be reached" in network
    assert own == "its own words"


def test_page_and_package_pin_the_same_libraries():
    page = json.loads((page_folder() / "package.json").read_text(encoding="utf-8"))["dependencies"]
    package = json.loads((page_folder().parent / "package.json").read_text(encoding="utf-8"))
    pinned = {**package["dependencies"], **package["optionalDependencies"]}
    page["onnxruntime-node"] = page.pop("onnxruntime-web")  # one library, for pages and for Node
    assert page == pinned


def test_the_folder_has_the_lock_file():
    lock = json.loads((page_folder() / "package-lock.json").read_text(encoding="utf-8"))
    stated = json.loads((page_folder() / "package.json").read_text(encoding="utf-8"))
    pinned = {library.name: library.version for library in libraries()}
    assert stated["dependencies"].items() >= pinned.items()
    assert lock["packages"][""]["dependencies"] == stated["dependencies"]
