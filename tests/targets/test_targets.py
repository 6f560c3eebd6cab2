"""Target files: what each shipped one must say, and that anything else is refused with the file and
the key."""

import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pocketvlm_targets
from pocketvlm_targets import KEYS, TargetError, load_target, target_names

FOLDER = Path(pocketvlm_targets.__file__).parent
PROMISED = {"laptop-x86", "raspberry-pi-5", "android-arm64", "laptop-apple", "ios", "browser-wasm"}
PROMISED |= {"browser-webgpu"}
SOUND = 'description = "a board"\n'


@pytest.fixture
def write(tmp_path):
    """Write a target file and return its path; the description is there unless the text has one."""

    def call(text):
        path = tmp_path / "board.toml"
        path.write_text(text if "description" in text else SOUND + text)
        return path

    return call


def test_the_promised_targets_are_there():
    assert set(target_names()) == PROMISED


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_shipped_value_says_why_and_from_where(name):
    target = load_target(name)
    assert target.name == name
    assert target.settings() == {key: as_read(value) for key, value in raw(name).items()}
    for key in target.settings().keys() - {"description"}:
        assert re.search("https://|measured|assum", target.reasons[key], re.IGNORECASE), key
    assert {
        "budget",
        "vision_precision",
        "decoder_precision",
        "decoder",
        "portable",
        "context",
        "memory_limit",
    } <= set(target.settings())


def raw(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def as_read(value):
    return tuple(value) if isinstance(value, list) else value


def test_a_file_of_ones_own(write):
    path = write(
        '# because\n# I say so\nbudget = [9, 4]\n\n# elsewhere\n\nthreads = 2\ngguf_type=["q8_0"]\ndecoder="both"'  # noqa: E501
    )
    target = load_target(path)
    assert (target.budget, target.threads, target.gguf_type, target.decoder) == (
        (9, 4),
        2,
        ("q8_0",),
        "both",
    )
    assert target.portable is None
    assert target.reasons == {"budget": "because I say so"}
    assert target.name == str(path)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("budgets = [64]", "budgets", "is not a key of a target"),
        ("[budget]\nk = 64", "budget", "a list"),
        ("[[budget]]\nk = 64", "budget", "a whole number"),
        ("budget = 64", "budget", "a list"),
        ("budget = []", "budget", "at least one"),
        ("budget = [64, 64]", "budget", "each value once"),
        ("budget = [64.0]", "budget", "a whole number"),
        ("budget = [true]", "budget", "a whole number"),
        ("budget = [0]", "budget", "from 1"),
        ('budget = ["64"]', "budget", "a whole number"),
        ("decoder = 1", "decoder", '"onnx"'),
        ('decoder = "tensorrt"', "decoder", '"llama.cpp"'),
        ('vision_precision = "int8"', "vision_precision", "a list"),
        ('decoder_precision = ["int 8"]', "decoder_precision", "a name"),
        ("portable = 1", "portable", "true or false"),
        ('shared_tables = "no"', "shared_tables", "true or false"),
        ('format = "tflite"', "format", '"ort"'),
        ("threads = -1", "threads", "from 1"),
        ("threads = 1979-05-27", "threads", "a whole number"),
        ("context = true", "context", "a whole number"),
        ('memory_limit = "4 GB"', "memory_limit", "a whole number"),
        ("max_pixels = 0", "max_pixels", "from 1"),
        ("max_tiles = [4]", "max_tiles", "a whole number"),
        ("max_tiles = true", "max_tiles", "a whole number"),
        ("fixed_size = 448", "fixed_size", "height and width"),
        ("fixed_size = [448, 640]", "fixed_size", "height and width"),
        ('fixed_size = "448x0"', "fixed_size", "height and width"),
        ('fixed_size = "448 x 640"', "fixed_size", "height and width"),
        ('fixed_size = "99999x99999"', "fixed_size", "height and width"),
        ("memory_limit = 1e999", "memory_limit", "a whole number"),
        ('description = "two\\nlines"', "description", "a line of text"),
        ('description = "\\u001b[2J"', "description", "a line of text"),
    ],
)
def test_unknown_keys_and_wrong_types(write, text, key, expected):
    refused(write(text), key, expected)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (
            'decoder = "llama.cpp"\ndecoder_precision = ["int4"]',
            "decoder_precision",
            "decoder is llama.cpp",
        ),
        (
            'decoder = "llama.cpp"\nembed_precision = ["fp16"]',
            "embed_precision",
            "decoder is llama.cpp",
        ),
        ('gguf_type = ["q8_0"]', "gguf_type", "decoder is onnx"),
        ('portable = true\nformat = "ort"', "portable", "format is ort"),
        ('max_pixels = 9\nfixed_size = "2x4"', "max_pixels", "fixed_size"),
        ("budget = [9, 64]\ncontext = 64", "context", "budget is 64"),
    ],
)
def test_values_that_contradict_each_other(write, text, key, expected):
    refused(write(text), key, expected)


def test_a_refusal_has_fields(write):
    with pytest.raises(TargetError) as caught:
        load_target(path := write("threads = -1"))
    error = caught.value
    found, expected = f"{path}: threads is -1", "a whole number from 1 to 10000000"
    assert (error.found, error.expected, error.advice) == (found, expected, "")
    assert str(error) == f"{found}: expected {expected}"
    with pytest.raises(TargetError) as caught:
        load_target("raspberry")
    assert (caught.value.found, caught.value.expected) == ("no target 'raspberry'", "")
    assert caught.value.advice.startswith("choose from android-arm64, ")


def refused(path, key, expected):
    with pytest.raises(TargetError) as caught:
        load_target(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert expected in message
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def test_a_file_without_a_description(tmp_path):
    (tmp_path / "board.toml").write_text("threads = 2")
    refused(tmp_path / "board.toml", "description", "name the device")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"budget = [", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"a = " + b"[" * 5_000, "not valid TOML"),
        (b"#" * 70_000, "64 KiB"),
    ],
)
def test_what_is_no_target(tmp_path, content, expected):
    (tmp_path / "board.toml").write_bytes(content)
    with pytest.raises(TargetError, match=expected) as caught:
        load_target(tmp_path / "board.toml")
    assert "board.toml" in str(caught.value)


def test_no_such_target(tmp_path):
    with pytest.raises(TargetError, match=r"no target 'raspberry': choose from .*raspberry-pi-5"):
        load_target("raspberry")
    for missing in (tmp_path / "none.toml", "a\0.toml"):
        with pytest.raises(TargetError, match="cannot be read"):
            load_target(missing)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(TargetError, match="cannot be read"):
        load_target(tmp_path / "folder.toml")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.text("budget_portcx =[]{}\"',.#\n0123456789", max_size=60).map(str.encode)
)
def test_no_file_does_anything_but_load_or_be_refused(tmp_path, content):
    path = tmp_path / "board.toml"
    path.write_bytes(SOUND.encode() + content)
    with suppress(TargetError):
        assert set(load_target(path).settings()) <= set(KEYS)


def test_the_targets_need_nothing_of_ours():
    script = "import sys, pocketvlm_targets as p; p.load_target('ios'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pocketvlm", "pocketvlm_export", "numpy", "click"}
