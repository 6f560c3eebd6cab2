"""The self-test that an export writes: both media, both engines, every budget and precision."""

import json
import shutil

import pytest

from pocketvlm import Artifact, EngineSettings
from pocketvlm.selftest import run_self_test
from pocketvlm.selftest.reading import read_expected
from support.gguf_files import HAS_LLAMA_CPP
from support.self_tests import alter

ONE_THREAD = EngineSettings(threads=1)


def test_two_media_have_one_each(video_pruned):
    artifact = Artifact.open(video_pruned)
    result = run_self_test(artifact, ONE_THREAD)
    assert [row.problem for row in result.graphs if not row.passed] == []
    of_media = {row.check.partition(" ")[0] for row in result.graphs}
    assert of_media == {"video", "image"}
    frames = read_expected(artifact).grid.tiles
    assert frames > read_expected(artifact.reading("image")).grid.tiles == 1
    size = sum(path.stat().st_size for path in (video_pruned / "selftest").iterdir())
    assert size < 2 * 300_000


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="needs llama-cpp-python")
def test_every_budget_precision_and_engine(qwen25_pruned):
    artifact = Artifact.open(qwen25_pruned)
    result = run_self_test(artifact, ONE_THREAD)
    assert [row.problem for row in result.graphs if not row.passed] == []
    vision = {row.graph for row in result.graphs if "behind" not in row.check}
    graphs = artifact.manifest.vision.graphs
    assert vision == {file for by in graphs.values() for file in by.values()}
    behind = {row.graph for row in result.graphs if "behind" in row.check}
    decoder = artifact.manifest.decoder
    assert behind == {*decoder.graphs.values(), *decoder.gguf.values()}
    assert len(result.graphs) == 2 * 2 + 2 * 5


def test_exact_graphs_are_held_exactly_and_others_by_what_they_lose(qwen25_pruned):
    data = json.loads((qwen25_pruned / "selftest/image.json").read_text())
    for vision in data["vision"]:
        exact, other = vision["bounds"]["fp32"], vision["bounds"]["int8"]
        assert (exact["kept_overlap"], exact["difference"]) == (1.0, 1e-3)
        assert "difference" not in other
        assert other["cosine"] < other["measured"]["features"]
        assert other["kept_overlap"] < other["measured"]["kept"]
    exact = [row for row in data["decoder"]["bounds"] if "difference" in row["bounds"]]
    assert [(row["engine"], row["precision"], row["vision"]) for row in exact] == [
        ("onnx", "fp32", "fp32")
    ]
    assert exact[0]["token_ids"] == data["decoder"]["token_ids"]
    assert len(exact[0]["token_ids"]) == 4


def test_the_page_names_it(qwen25_pruned):
    stated = Artifact.open(qwen25_pruned).manifest.self_test
    page = (qwen25_pruned / "USING.md").read_text(encoding="utf-8")
    assert stated.file in page
    facts = json.loads((qwen25_pruned / "using.json").read_text(encoding="utf-8"))
    assert facts["self_test"] == {"file": stated.file, "pictures": list(stated.pictures)}


def test_another_picture_is_another_answer(qwen25_pruned, tmp_path):
    """The picture decides: with the colours of another one the same bounds are left."""
    from PIL import Image, ImageOps

    folder = tmp_path / "artifact"
    shutil.copytree(qwen25_pruned, folder)
    path = folder / "selftest/image-0.png"
    ImageOps.invert(Image.open(path).convert("RGB")).save(path)
    alter(folder, lambda data: None)
    result = run_self_test(Artifact.open(folder), ONE_THREAD)
    rows = {row.check: row for row in result.graphs}
    assert not rows["image vision k=6 fp32"].passed
    assert not rows["image onnx fp32 behind vision fp32"].passed
