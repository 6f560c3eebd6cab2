"""The client for JavaScript, in Node, on tiny artifacts: their layouts and what their decoders
read, token by token as the runtime; and what it refuses."""

import json

import pytest

from pocketvlm import VLM, Artifact, EngineSettings, Sampling
from pocketvlm_export.packaging.using import write_using
from support.node import needs_node, pixels_of, run_client
from support.noise import picture
from support.tiny_artifact import (
    PREPROCESSOR,
    cut_pictures,
    give_attention,
    give_extras,
    give_gguf,
    give_scores,
    give_selectors,
    make_dynamic,
    make_thumbnails,
    read_manifest,
    read_scores,
    write_artifact,
    write_clip_artifact,
    write_manifest,
)
from support.tiny_graphs import IMAGE

pytestmark = needs_node

GREEDY = Sampling(max_new_tokens=6)
SIZES = ((16, 16), (40, 20), (9, 30))


def state_layout(root, processor, layout):
    """Let a tiny artifact cut pictures otherwise."""
    statistics = {name: PREPROCESSOR[name] for name in ("image_mean", "image_std")}
    (root / "preprocessor_config.json").write_text(json.dumps({**processor, **statistics}))
    data = read_manifest(root)
    data["vision"]["layout"] = layout
    write_manifest(root, data)


def in_tiles(root):
    processor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": IMAGE, "width": IMAGE},
        "min_patches": 1,
        "max_patches": 4,
    }
    layout = {"name": "tiles", "min_tiles": 1, "max_tiles": 4, "before": [40], "after": [41, 42]}
    state_layout(root, processor, layout)


def in_named_parts(root):
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 2 * IMAGE},
        "max_image_size": {"longest_edge": IMAGE},
    }
    marks = {"around": [40], "whole": [41], "row_end": [42], "last_row_end": [42, 43]}
    parts = [[[50 + 2 * row + column] for column in range(2)] for row in range(2)]
    layout = {"name": "idefics3", "longest_edge": 2 * IMAGE, "splits": True}
    state_layout(root, processor, {**layout, "marks": marks, "parts": parts})


def count_from_one(root, weights):
    give_attention(root, weights, "prompt")
    data = read_manifest(root)
    data["decoder"]["first_position"] = 1
    write_manifest(root, data)


def publish_with(root, **processors):
    data = read_manifest(root)
    data["generation"] = {"processors": processors}
    write_manifest(root, data)


def with_llama_cpp_alone(root):
    give_gguf(root)
    data = read_manifest(root)
    data["decoder"] |= {"graphs": {}, "tables": {}, "embed": {}}
    write_manifest(root, data)


KINDS = {
    "plain": lambda root, weights: None,
    "dynamic": lambda root, weights: make_dynamic(root, weights, 6, 24),
    "tiles": lambda root, weights: in_tiles(root),
    "idefics3": lambda root, weights: in_named_parts(root),
    "several": lambda root, weights: cut_pictures(root, 2, 2),
    "thumbnails": lambda root, weights: make_thumbnails(root, weights, 6),
    "extras": lambda root, weights: give_extras(root, weights, 6, ("deep", "low"), ("deep",)),
    "pictures": lambda root, weights: give_attention(root, weights, "pictures"),
    "prompt": count_from_one,
    "scores": give_scores,
    "processors": lambda root, weights: publish_with(
        root,
        repetition_penalty=1.7,
        no_repeat_ngram_size=2,
        suppress_tokens=[70, 71, 72],
        begin_suppress_tokens=[80],
        bad_words_ids=[[90], [91, 92]],
        min_new_tokens=2,
    ),
}

ANSWERS = """
for (const { name, folder } of given.artifacts) {
  const vlm = await load(folder);
  const asked = [];
  const ask = async (options) => {
    const { result } = vlm.answer({ maxNewTokens: 6, ...options });
    const { tokenIds, promptTokens } = await result;
    asked.push({ tokenIds, total: promptTokens.total });
  };
  const pictures = [];
  for (const pixels of given.pictures) pictures.push(await vlm.see(picture(pixels)));
  for (const seen of pictures)
    for (const budget of [6, 2]) await ask({ prompt: given.question, pictures: [seen], budget });
  await ask({ prompt: given.question });
  await ask({ prompt: "<image> or <image>?", pictures: pictures.slice(0, 2) });
  results[name] = asked;
}
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name, change in KINDS.items():
        change(folder / name, write_artifact(folder / name, budgets=(6,)))
        write_using(Artifact.open(folder / name))
    return folder


@pytest.fixture(scope="module")
def images():
    return [picture(*size) for size in SIZES]


@pytest.fixture(scope="module")
def results(artifacts, images, tmp_path_factory):
    return run_client(
        tmp_path_factory.mktemp("client"),
        ANSWERS,
        artifacts=[{"name": name, "folder": str(artifacts / name)} for name in KINDS],
        pictures=[pixels_of(image) for image in images],
        question="what is it?",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_the_runtimes(kind, artifacts, images, results):
    vlm = VLM.load(artifacts / kind, settings=EngineSettings(threads=1))
    asked = [("what is it?", [image], budget) for image in images for budget in (6, 2)]
    asked += [("what is it?", [], None), ("<image> or <image>?", images[:2], None)]
    for answer, (question, given, budget) in zip(results[kind], asked, strict=True):
        expected = vlm.generate(question, given, budget=budget, sampling=GREEDY)
        assert answer["total"] == expected.prompt_tokens["total"]
        assert answer["tokenIds"] == expected.token_ids


EXPORTED = """
for (const folder of given.folders) {
  const vlm = await load(folder, { decoderPrecision: "fp32", visionPrecision: "fp32" });
  results[folder] = [];
  for (const pixels of given.pictures) {
    const seen = await vlm.see(picture(pixels)), messages = [];
    for (const text of ["what?", "is it so?"]) {
      const place = messages.length ? [] : [{ type: "image" }];
      messages.push({ role: "user", content: [...place, { type: "text", text }] });
      const options = { messages, pictures: [seen], maxNewTokens: 6 };
      const { tokenIds, promptTokens, text: answer } = await vlm.answer(options).result;
      results[folder].push({ tokenIds, cached: promptTokens.cached });
      messages.push({ role: "assistant", content: answer });
    }
  }
}
"""


def test_pictures_of_any_size_are_numbered_by_rows_and_columns(
    qwen25_pruned, qwen3_pruned, tmp_path
):
    """And of Qwen3-VL the decoder reads further features; a second turn continues from the
    picture."""
    folders, images = [qwen25_pruned, qwen3_pruned], [picture(60, 60), picture(200, 90)]
    results = run_client(
        tmp_path,
        EXPORTED,
        folders=[str(folder) for folder in folders],
        pictures=[pixels_of(image) for image in images],
    )
    for folder in folders:
        answers = iter(results[str(folder)])
        exact = {"vision_precision": "fp32", "decoder_precision": "fp32"}
        settings = EngineSettings(threads=1)
        vlm = VLM.load(folder, decoder="onnx", settings=settings, **exact)
        for image in images:
            chat = vlm.chat()
            for question, images_given in (("what?", [image]), ("is it so?", None)):
                answer = next(answers)
                expected = chat.ask(question, images_given, sampling=GREEDY)
                assert answer["tokenIds"] == expected.token_ids
            assert answer["cached"] >= 6


REFUSED = {
    "gguf": (lambda root, weights: with_llama_cpp_alone(root), "GGUF file for llama.cpp"),
    "selectors": (
        lambda root, weights: give_selectors(root, weights),
        "by the words of each question",
    ),
    "stages": (lambda root, weights: read_scores(root, weights, 3), "drops visual tokens"),
    "min_length": (
        lambda root, weights: publish_with(root, min_length=4),
        "go through min_length, which this client does not have",
    ),
}


def test_what_is_not_served_is_refused_in_words(tmp_path):
    pytest.importorskip("gguf")
    for name, (change, _) in REFUSED.items():
        change(tmp_path / name, write_artifact(tmp_path / name, budgets=(6,)))
    write_clip_artifact(tmp_path / "clips", budgets=(6,))
    folders = [*REFUSED, "clips"]
    for name in folders:
        write_using(Artifact.open(tmp_path / name))
    for name, change in (
        ("format", {"format": 2}),
        ("unheard", {"needs": {"magic": "it is magic"}}),
    ):
        write_artifact(tmp_path / name, budgets=(6,))
        write_using(Artifact.open(tmp_path / name))
        using = tmp_path / name / "using.json"
        using.write_text(json.dumps({**json.loads(using.read_text()), **change}))
        folders.append(name)
    script = """
    for (const folder of given.folders)
      results[folder] = await refusal(() => load(`${given.root}/${folder}`));
    """
    results = run_client(tmp_path, script, root=str(tmp_path), folders=[*folders, "missing"])
    expected = {name: words for name, (_, words) in REFUSED.items()}
    expected |= {"clips": "reads clips", "format": "has the format 2", "unheard": "it is magic"}
    expected |= {"missing": "cannot be read"}
    for name, words in expected.items():
        assert results[name].startswith("ClientError: "), results[name]
        assert words in results[name]
