"""A site: whole or not at all, of artifacts that a page can answer from, without anything from
elsewhere."""

import json
import os
import re

import pytest

from pocketvlm.cli.web import web
from pocketvlm.errors import ArtifactError, EngineError, RequestError
from pocketvlm.web import page_files
from pocketvlm.web.sites import servable, served_needs, write_site


def write_artifact(root, **changes):
    """A folder as far as pages look at it."""
    (root / "onnx").mkdir(parents=True)
    files = {
        "onnx/vision_encoder.onnx": b"vision",
        "onnx/vision_encoder.onnx_data": b"weights of it",
        "onnx/decoder.onnx": b"decoder",
        "onnx/decoder_q4.onnx": b"another decoder",
        "gguf/decoder-q8_0.gguf": b"for llama.cpp",
        "tokenizer.json": b"{}",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    graphs = {"vision": "onnx/vision_encoder.onnx", "decoder": "onnx/decoder.onnx"}
    facts = {
        "format": 1,
        "model": "a model",
        "files": {name: len(data) for name, data in files.items()},
        "graphs": {role: {"file": name} for role, name in graphs.items()},
        "weights": {"onnx/vision_encoder.onnx": ["onnx/vision_encoder.onnx_data"]},
        "decoder": {"default_precision": "fp32"},
        "needs": {},
        **changes,
    }
    (root / "using.json").write_text(json.dumps(facts))
    (root / "pocketvlm.json").write_text("{}")
    return root


def restate(root, **changes):
    facts = json.loads((root / "using.json").read_text())
    (root / "using.json").write_text(json.dumps(facts | changes))


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(tmp_path / "small")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_site_has_page_libraries_artifact_and_samples(tmp_path, registry, artifact):
    sample = tmp_path / "cat.png"
    sample.write_bytes(b"a picture")
    before = contents(artifact)
    site = write_site(
        tmp_path / "site",
        [artifact],
        samples=[sample],
        questions=["What is it?"],
        registry=str(registry),
    )
    written = contents(tmp_path / "site")
    assert json.loads(written["site.json"]) == site
    assert site == {
        "back_end": "local",
        "models": [{"name": "small", "path": "models/small/", "bytes": 6 + 13 + 7}],
        "samples": ["samples/cat.png"],
        "questions": ["What is it?"],
    }
    assert page_files().keys() <= written.keys()
    assert written["samples/cat.png"] == b"a picture"
    for name, data in before.items():
        assert name.endswith(".gguf") or written[f"models/small/{name}"] == data
    assert not [name for name in written if name.endswith(".gguf")]
    assert written["lib/jinja@1.2.3/index.js"].startswith(b"@huggingface/jinja")
    assert contents(artifact) == before


def test_modules_of_a_site_import_what_is_in_it(tmp_path, registry):
    write_site(tmp_path / "site", registry=str(registry))
    written = contents(tmp_path / "site")
    imported = set()
    for name, data in written.items():
        if name.endswith(".mjs") and "/" not in name:
            named = re.findall(r"(?:from|import|new URL)\s*\(?\s*\"([^\"]+)\"", data.decode())
            imported |= {each for each in named if not each.startswith("node:")}
    assert {each.removeprefix("./") for each in imported} - {"worker.mjs"} <= written.keys()
    assert any(each.startswith("./lib/onnxruntime-web@1.2.3/") for each in imported)


def test_what_pages_cannot_answer_from_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"llama\.cpp alone"):
        servable(write_artifact(tmp_path / "gguf", decoder=None))
    needs = {"clips": "It reads clips", "extras": "Further rows"}
    with pytest.raises(RequestError, match="It reads clips") as refusal:
        servable(write_artifact(tmp_path / "clips", needs=needs))
    assert "Further rows" not in str(refusal.value)
    assert "extras" in served_needs()
    with pytest.raises(RequestError, match="of tomorrow"):
        servable(write_artifact(tmp_path / "new", needs={"tomorrow": "of tomorrow"}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "using.json").unlink(),
        lambda root: (root / "using.json").write_text("no JSON"),
        lambda root: (root / "using.json").write_text("[1]"),
        lambda root: (root / "using.json").write_text('{"format": 2}'),
        lambda root: (root / "using.json").write_text('{"format": 1, "files": {}, "needs": {}}'),
        lambda root: restate(root, needs={"tomorrow": {"no": "words"}}),
        lambda root: (root / "onnx/decoder.onnx").unlink(),
        lambda root: (root / "onnx/decoder.onnx").write_bytes(b"cut"),
    ],
)
def test_damaged_artifacts_are_refused(tmp_path, artifact, damage):
    damage(artifact)
    with pytest.raises(ArtifactError):
        write_site(tmp_path / "site", [artifact])
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "onnx/../../secret"])
def test_names_stay_in_the_artifact(tmp_path, name):
    (tmp_path / "secret").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="plain relative names"):
        servable(write_artifact(tmp_path / "bad", files={name: 4}))


@pytest.mark.parametrize("name", ["onnx/decoder.onnx", "README.md", "using.json"])
def test_no_link_publishes_a_file_of_elsewhere(tmp_path, registry, artifact, name):
    """A file that clients fetch, and one that is carried beside them."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine" * 20)
    facts = (artifact / "using.json").read_text()
    (artifact / name).unlink(missing_ok=True)
    (artifact / name).symlink_to(secret)
    if name == "onnx/decoder.onnx":
        restate(artifact, files=json.loads(facts)["files"] | {name: 80})
    with pytest.raises(ArtifactError, match="leaves the folder"):
        write_site(tmp_path / "site", [artifact], registry=str(registry))
    assert not (tmp_path / "site").exists()


def test_destinations(tmp_path, registry, artifact, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (taken, tmp_path / "file"):
        with pytest.raises(RequestError) as refusal:
            write_site(place, [artifact], overwrite=True)
        assert refusal.value.setting == "output"
    assert contents(taken) == {"thesis.txt": b"mine"}
    site = tmp_path / "deep" / "site"
    write_site(site, registry=str(registry))
    with pytest.raises(RequestError, match="overwrite"):
        write_site(site, [artifact], registry=str(registry))
    assert not (site / "models").exists()
    write_site(site, [artifact], registry=str(registry), overwrite=True)
    assert (site / "models" / "small" / "using.json").is_file()
    assert sorted(path.name for path in site.parent.iterdir()) == ["site"]
    monkeypatch.chdir(site)
    with pytest.raises(RequestError, match="folder you are in"):
        write_site(site, registry=str(registry), overwrite=True)


def test_a_failure_leaves_what_was_there(tmp_path, registry, artifact, monkeypatch):
    site = tmp_path / "site"
    write_site(site, [artifact], registry=str(registry))
    before = contents(site)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pocketvlm.web.sites.shutil.copyfile", full)
    with pytest.raises(RequestError, match="no space left"):
        write_site(site, [artifact], registry=str(registry), overwrite=True)
    assert contents(site) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".site")]


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, registry, artifact, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "elsewhere").mkdir()
    # The lock file needs no link; the artifact's files are copied.
    write_site(tmp_path / "site", [artifact], registry=str(registry))
    copied = tmp_path / "site" / "models" / "small" / "onnx" / "decoder.onnx"
    assert copied.read_bytes() == b"decoder"
    assert copied.stat().st_ino != (artifact / "onnx" / "decoder.onnx").stat().st_ino


def test_samples_and_names_that_are_refused(tmp_path, registry, artifact):
    other = write_artifact(tmp_path / "elsewhere" / "small")
    with pytest.raises(RequestError, match="one name"):
        write_site(tmp_path / "site", [artifact, other])
    notes = tmp_path / "notes.txt"
    notes.write_text("x")
    for path in (notes, tmp_path / "missing.png"):
        with pytest.raises(RequestError) as refusal:
            write_site(tmp_path / "site", [artifact], samples=[path])
        assert refusal.value.setting == "sample"


def test_without_a_registry_nothing_is_written(tmp_path, registry, artifact):
    for path in registry.iterdir():
        path.write_bytes(b"another")
    with pytest.raises(EngineError):
        write_site(tmp_path / "site", [artifact], registry=str(registry))
    assert not (tmp_path / "site").exists()


def test_the_command(tmp_path, registry, artifact):
    from click.testing import CliRunner

    arguments = [str(artifact), "-o", str(tmp_path / "site"), "--registry", str(registry)]
    done = CliRunner().invoke(web, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "python -m http.server" in done.stdout
    done = CliRunner().invoke(web, [*arguments, "--overwrite", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["models"][0]["name"] == "small"
