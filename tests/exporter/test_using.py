"""USING.md and using.json: who knows nothing else gets the runtime's answers."""

import json
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from PIL import Image
from tokenizers import Tokenizer

from pocketvlm import VLM, Artifact, EngineSettings, Sampling
from pocketvlm.artifact.manifest import files_digest
from pocketvlm.cli import main
from pocketvlm.layouts import open_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.packaging.using import FACTS, USING, facts, write_using
from support.noise import picture
from support.tiny_artifact import (
    TEMPLATE,
    give_attention,
    give_extras,
    give_scores,
    give_selectors,
    make_dynamic,
    read_manifest,
    read_scores,
    write_artifact,
    write_manifest,
)
from support.using import check_facts


def stated_in(folder):
    return json.loads((folder / FACTS).read_text())


@pytest.fixture(scope="module")
def page(tiny_export):
    return (tiny_export / USING).read_text()


@pytest.fixture(scope="module")
def stated(tiny_export):
    return stated_in(tiny_export)


class Client:
    """A client in another language would do this; it reads the page's JSON, the graphs and
    tokenizer.json."""

    def __init__(self, folder, stated):
        self.stated = stated
        self.sessions = {
            role: ort.InferenceSession(folder / graph["file"])
            for role, graph in stated["graphs"].items()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def see(self, image):
        stated = self.stated["picture"]
        width, height = image.size
        scale = stated["shortest_edge"] / min(width, height)
        size = (int(width * scale), int(height * scale))
        image = image.resize(size, Image.Resampling[stated["resample"].upper()])
        rows, columns = stated["crop_to"]
        left, top = (size[0] - columns) // 2, (size[1] - rows) // 2
        samples = np.asarray(image.crop((left, top, left + columns, top + rows)), dtype=np.float64)
        pixels = (samples * stated["scale"] - stated["mean"]) / stated["std"]
        feed = {"pixel_values": pixels.astype(np.float32).transpose(2, 0, 1)[None]}
        return self.sessions["vision"].run(["image_features"], feed)[0][0]

    def answer(self, question, image, steps):
        prompt = self.stated["prompt"]
        text = prompt["text"].replace(prompt["question"], question)
        ids = self.tokenizer.encode(text, add_special_tokens=prompt["adds_special_tokens"]).ids
        at = ids.index(self.stated["image_token_id"])
        embeds = np.concatenate([self.embed(ids[:at]), self.see(image), self.embed(ids[at + 1 :])])
        shape = (1, self.stated["kv_heads"], 0, self.stated["head_dim"])
        names = [
            f"{layer}.{kind}" for layer in range(self.stated["layers"]) for kind in ("key", "value")
        ]
        cache = {name: np.zeros(shape, np.float32) for name in names}
        answer, length = [], 0
        while len(answer) < steps and not (answer and answer[-1] in self.stated["eos_token_ids"]):
            n = len(embeds)
            feed = {
                "inputs_embeds": embeds[None],
                "attention_mask": np.ones((1, length + n), np.int64),
            }
            feed["position_ids"] = np.arange(length, length + n)[None]
            feed |= {f"past_key_values.{name}": value for name, value in cache.items()}
            logits, *present = self.sessions["decoder"].run(
                ["logits", *(f"present.{name}" for name in names)], feed
            )
            cache = dict(zip(names, present, strict=True))
            length += n
            answer.append(int(logits[0, -1].argmax()))
            embeds = self.embed(answer[-1:])
        return answer

    def embed(self, ids):
        return self.sessions["embed"].run(None, {"input_ids": np.array([ids], np.int64)})[0][0]


@pytest.mark.parametrize("question", ["what is in the picture?", "naïve café"])
def test_the_page_is_enough_to_answer(tiny_export, stated, question):
    client = Client(tiny_export, stated)
    random = np.random.default_rng(3)
    for size in ((40, 60), (90, 31)):
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        vlm = VLM.load(tiny_export, settings=EngineSettings(threads=1))
        expected = vlm.generate(question, [image], sampling=Sampling(max_new_tokens=6))
        assert client.answer(question, image, 6) == expected.token_ids


def test_the_ids_on_the_page_are_the_prompts(tiny_export, page, stated):
    client = Client(tiny_export, stated)
    prompt = stated["prompt"]
    assert (
        client.tokenizer.encode(
            prompt["text"], add_special_tokens=prompt["adds_special_tokens"]
        ).ids
        == prompt["ids"]
    )
    assert ", ".join(map(str, prompt["ids"])) in page
    prompter = Prompter.from_artifact(Artifact.open(tiny_export))
    assert prompt["without"] == prompter.render(prompt["question"])
    assert prompt["without"] in page


def test_every_name_and_number_is_on_the_page(page, stated):
    picture = stated["picture"]
    numbers = [*picture["size"], picture["scale"], *picture["mean"], *picture["std"]]
    numbers += [stated[key] for key in ("visual_tokens", "image_token_id", "layers", "hidden")]
    numbers += [*stated["eos_token_ids"], *stated["prompt"]["ids"]]
    printed = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", page))
    assert {str(number) for number in numbers} <= printed
    names = [graph["file"] for graph in stated["graphs"].values()]
    names += ["pixel_values", "image_features", "input_ids", "inputs_embeds", "attention_mask"]
    names += ["position_ids", "past_key_values.", "present", "logits", "kept_scores"]
    assert [name for name in names if name not in page] == []


def test_the_page_lists_the_tensors_that_the_graphs_have(tiny_export, stated):
    for graph in stated["graphs"].values():
        session = ort.InferenceSession(tiny_export / graph["file"])
        for stated, tensors in (
            (graph["inputs"], session.get_inputs()),
            (graph["outputs"], session.get_outputs()),
        ):
            assert list(stated) == [tensor.name for tensor in tensors]
            for tensor in tensors:
                sizes = zip(stated[tensor.name], tensor.shape, strict=True)
                assert all(isinstance(size, str) or size == actual for size, actual in sizes), (
                    tensor.name
                )


def test_every_graph_says_which_files_its_weights_lie_in(tiny_export, page, stated):
    graphs = {f"onnx/{path.name}": path for path in (tiny_export / "onnx").glob("*.onnx")}
    assert stated["weights"].keys() == graphs.keys()
    for name, path in graphs.items():
        initializers = onnx.load(path, load_external_data=False).graph.initializer
        entries = [entry for tensor in initializers for entry in tensor.external_data]
        files = {f"onnx/{entry.value}" for entry in entries if entry.key == "location"}
        assert set(stated["weights"][name]) == files
        beside = ", ".join(f"`{file}`" for file in sorted(files))
        assert (f"- `{name}`: {beside}\n" if files else f"- `{name}` alone\n") in page


def test_squares_are_counted_in_the_grid_of_the_picture(stated):
    assert stated["grid"] == [6, 6]  # 84 pixels, patches of 14


def test_every_budget_and_precision_is_named(tiny_export):
    stated = check_facts(tiny_export)
    manifest = Artifact.open(tiny_export).manifest
    others = {name: e for name, e in manifest.files.items() if name not in (USING, FACTS)}
    assert stated["artifact"] == files_digest(others)
    graphs = {int(budget): files for budget, files in stated["vision"]["graphs"].items()}
    assert graphs == manifest.vision.graphs
    assert stated["vision"]["budgets"] == [9, 18]
    assert stated["decoder"]["graphs"] == manifest.decoder.graphs
    assert stated["decoder"]["tables"].keys() == manifest.decoder.graphs.keys()
    assert stated["needs"] == {}
    assert {"tokenizer.json", "chat_template.jinja", "selftest/image.json"} <= set(stated["files"])


def test_prompts_are_written_from_the_pieces(tiny_export, stated):
    """By the texts around blanks alone, against the template itself."""
    prompter, pieces = Prompter.from_artifact(Artifact.open(tiny_export)), stated["pieces"]
    assert pieces["notes"] == []
    before, after = pieces["question_picture"]
    assert prompter.render("is it?", 1) == f"{before}is it?{after}"
    before, after = pieces["question"]
    assert prompter.render("is it?") == f"{before}is it?{after}"
    system, between, behind = pieces["system_picture"]
    said = [("system", "Be brief."), ("user", "is it?"), ("assistant", "no"), ("user", "why?")]
    messages = [
        {
            "role": role,
            "content": [
                *([{"type": "image"}] if words == "is it?" else []),
                {"type": "text", "text": words},
            ],
        }
        for role, words in said
    ]
    question, answer, ending = pieces["further"]
    written = f"{system}Be brief.{between}is it?{question}no{answer}why?{ending}"
    assert prompter.written(messages) == written
    assert behind == ending


REFUSING = (
    "{% if messages[0]['role'] == 'system' or messages | length > 1 %}"
    "{{ raise_exception('one question') }}{% endif %}"
)


def test_what_a_template_refuses_is_left_out_with_a_note(tmp_path):
    write_artifact(tmp_path / "a", template=REFUSING + TEMPLATE)
    write_using(Artifact.open(tmp_path / "a"))
    pieces = check_facts(tmp_path / "a")["pieces"]
    assert set(pieces) == {"question", "question_picture", "trims", "notes"}
    assert len(pieces["notes"]) == 2


def test_a_template_that_writes_what_it_is_given_elsewhere_has_no_pieces(tmp_path):
    twice = TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'] }}{{ part['text'] }}")
    write_artifact(tmp_path / "a", template=twice)
    write_using(Artifact.open(tmp_path / "a"))
    assert set(check_facts(tmp_path / "a")["pieces"]) == {"trims", "notes"}


def test_the_page_is_part_of_the_artifact_and_names_no_machine(tiny_export, tiny_checkpoint, page):
    artifact = Artifact.open(tiny_export, check="full")
    assert {USING, FACTS} <= set(artifact.manifest.files)
    assert stated_in(tiny_export) == facts(artifact)
    assert facts(artifact)["notes"] == []
    assert str(tiny_checkpoint.parent) not in page
    assert "{{" not in page
    assert "{%" not in page


PRESETS = ("tiny-internvl", "tiny-qwen2.5-vl")


@pytest.fixture(scope="module", params=PRESETS)
def family(request, make_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "out"
    export(str(make_tiny(request.param)), folder, ExportOptions(budgets=(7,)))
    return folder, (folder / USING).read_text()


def test_the_page_says_what_answers_go_through(family):
    folder, page = family
    processors = Artifact.open(folder).manifest.generation.processors
    assert ("repetition_penalty" in processors) == ("qwen" in str(folder))
    assert all(name in page for name in processors)
    assert ("takes the highest logit alone" in page) == bool(processors)
    assert check_facts(folder)["generation"]["processors"] == processors


class TokenClient(Client):
    """As `Client`, for models whose pictures are several tiles or whose tokens have several
    positions; prepared pixels are the runtime's."""

    def see_tiles(self, tiles):
        names = ["image_features", "kept_indices", *self.stated.get("extras", ())]
        feeds = [{"pixel_values": tile[None]} for tile in tiles]
        seen = [self.sessions["vision"].run(names, feed) for feed in feeds]
        further = dict(zip(names[2:], (rows[0] for rows in seen[0][2:]), strict=True))
        return np.concatenate([rows[0] for rows, *_ in seen]), seen[0][1][0], further

    def ids(self, question):
        prompt, token = self.stated["prompt"], self.stated["image_token_id"]
        text = prompt["text"].replace(prompt["question"], question)
        ids = self.tokenizer.encode(text, add_special_tokens=prompt["adds_special_tokens"]).ids
        at, around = ids.index(token), self.stated["around"]
        return [*ids[:at], *around["before"], token, *around["after"], *ids[at + 1 :]]

    def answer_about(self, question, tiles, steps):
        features, kept, further = self.see_tiles(tiles)
        ids, axes = self.ids(question), self.stated["axes"]
        at = ids.index(self.stated["image_token_id"])
        embeds = np.concatenate([self.embed(ids[:at]), features, self.embed(ids[at + 1 :])])
        if axes == 1:
            positions, following = np.arange(len(embeds))[None], len(embeds)
        else:
            edge = self.stated["token_edge"]
            rows, columns = (size // edge for size in tiles.shape[2:])
            places = [(at, at + i // columns, at + i % columns) for i in kept.tolist()]
            after = at + max(rows, columns)
            following = after + len(ids) - at - 1
            text = [*range(at)], [*range(after, following)]
            planes = [[*text[0], *(place[axis] for place in places), *text[1]] for axis in range(3)]
            positions = np.array(planes)
        shape = (1, self.stated["kv_heads"], 0, self.stated["head_dim"])
        names = [f"{n}.{kind}" for n in range(self.stated["layers"]) for kind in ("key", "value")]
        cache = {name: np.zeros(shape, np.float32) for name in names}
        answer, length = [], 0
        while len(answer) < steps and not (answer and answer[-1] in self.stated["eos_token_ids"]):
            length += len(embeds)
            feed = {"inputs_embeds": embeds[None], "attention_mask": np.ones((1, length), np.int64)}
            feed["position_ids"] = positions if axes == 1 else positions[:, None]
            for name, rows in further.items():
                feed[name] = np.zeros_like(embeds[None])
                if not answer:
                    feed[name][0, at : at + len(rows)] = rows
            feed |= {f"past_key_values.{name}": value for name, value in cache.items()}
            logits, *present = self.sessions["decoder"].run(
                ["logits", *(f"present.{name}" for name in names)], feed
            )
            cache = dict(zip(names, present, strict=True))
            answer.append(int(logits[0, -1].argmax()))
            embeds = self.embed(answer[-1:])
            positions, following = np.full((axes, 1), following), following + 1
        return answer


@pytest.mark.parametrize("size", [(60, 60), (200, 90), (40, 30)])
def test_the_page_says_how_tiles_and_positions_are_put_together(family, size):
    folder, _ = family
    client = TokenClient(folder, stated_in(folder))
    image = picture(*size)
    vlm = VLM.load(folder, settings=EngineSettings(threads=1))
    # The page's code takes the highest logit, whatever the checkpoint was published with.
    plain = Sampling(max_new_tokens=12, repetition_penalty=1.0)
    expected = vlm.generate("is it?", [image], sampling=plain)
    tiles = open_layout(Artifact.open(folder)).cut(image).pixel_values
    assert client.answer_about("is it?", tiles, 12) == expected.token_ids


@pytest.mark.parametrize("size", [(60, 60), (200, 90)])
def test_the_page_says_how_further_features_are_read(qwen3_pruned, size):
    client = TokenClient(qwen3_pruned, stated_in(qwen3_pruned))
    assert client.stated["extras"] == ["deepstack_0", "deepstack_1", "deepstack_2"]
    assert client.stated["token_edge"] == 32
    image = picture(*size)
    vlm = VLM.load(qwen3_pruned, settings=EngineSettings(threads=1))
    expected = vlm.generate("is it?", [image], sampling=Sampling(max_new_tokens=12))
    tiles = open_layout(Artifact.open(qwen3_pruned)).cut(image).pixel_values
    assert client.answer_about("is it?", tiles, 12) == expected.token_ids


def test_the_page_says_how_tokens_are_numbered(family):
    folder, page = family
    stated = stated_in(folder)
    shape = stated["graphs"]["decoder"]["inputs"]["position_ids"]
    assert shape == (["batch", "tokens"] if stated["axes"] == 1 else [3, "batch", "tokens"])
    assert ("3 x batch x tokens" in page) == (stated["positions"] == "mrope")
    assert ("positions" in stated["needs"]) == (stated["axes"] > 1)
    if stated["around"]["before"]:
        ids, token = stated["prompt"]["ids"], stated["image_token_id"]
        around = [*stated["around"]["before"], token, *stated["around"]["after"]]
        assert ids[ids.index(token) - 1 : ids.index(token) + 2] == around
        assert "those of one tile after those" in page


def test_a_layout_is_stated_with_what_it_follows(family):
    folder, _ = family
    layout, artifact = stated_in(folder)["layout"], Artifact.open(folder)
    name, *_ = (options := dict(artifact.manifest.vision.layout)).pop("name"), None
    assert (layout["name"], layout["options"]) == (name, options)
    assert layout["patches"] == artifact.manifest.pruning.tokens_before
    if artifact.manifest.vision.image_size is None:
        assert layout["figures"] == {"most_aspect": 200}
    else:
        assert layout["most_tiles"] == 5


def test_inspect_says_how_pictures_are_read(family):
    folder, _ = family
    printed = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    manifest = Artifact.open(folder).manifest
    assert "           pixels: equal\n" in printed
    assert ("positions  time, row and column" in printed) == (manifest.vision.image_size is None)
    if manifest.vision.image_size is None:
        assert "pictures   any size up to 401408 pixels, at most 512 tokens\n" in printed
    else:
        assert "pictures   56x56 pixels per tile, at most 5 tiles, layout tiles\n" in printed
        capped = CliRunner().invoke(main, ["inspect", str(folder), "--max-tiles", "1"]).stdout
        assert "pictures   56x56 pixels\n" in capped


def test_the_manifest_states_what_the_towers_work_follows_from(family):
    folder, _ = family
    tower = Artifact.open(folder).manifest.vision.tower
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    whole = config.get("fullatt_block_indexes")
    assert tower.windowed_layers == (config["depth"] - len(whole) if whole else 0)
    assert (tower.window, tower.mlp_matrices) == ((64, 3) if whole else (0, 2))  # 112 pixels of 14


def test_pictures_of_any_size_have_no_size_on_the_page(tmp_path):
    weights = write_artifact(tmp_path / "a", budgets=(6,))
    make_dynamic(tmp_path / "a", weights, 6, 24)
    write_using(Artifact.open(tmp_path / "a"))
    page = (tmp_path / "a" / "USING.md").read_text()
    stated = stated_in(tmp_path / "a")
    assert stated["grid"] is None
    vision = stated["graphs"]["vision"]
    assert vision["inputs"]["pixel_values"] == ["batch", 3, "height", "width"]
    assert vision["outputs"]["kept_indices"] == ["batch", "tokens"]
    assert stated["picture"]["dynamic"]
    assert "or all of one that has fewer; the largest pictures have 24" in page


KINDS = {
    "plain": lambda root, weights: None,
    "selector": lambda root, weights: give_selectors(root, weights, (6,)),
    "extras": lambda root, weights: give_extras(root, weights, 6, ("deep",), ("deep",)),
    "pictures": lambda root, weights: give_attention(root, weights, "pictures"),
    "given": lambda root, weights: read_scores(root, weights, 3),
    "scores": give_scores,
}


NEEDS = {
    "plain": set(),
    "selector": {"selectors"},
    "extras": {"extras"},
    "pictures": {"picture_ids"},
    "given": {"stages", "visual_scores"},
    "scores": {"scored_rows"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_lists_the_types_that_the_graphs_have(tmp_path, kind):
    root = tmp_path / "a"
    KINDS[kind](root, write_artifact(root, budgets=(6,)))
    write_using(Artifact.open(root))
    page, stated = (root / USING).read_text(), check_facts(root)
    assert NEEDS[kind] == set(stated["needs"])
    printed = re.findall(r"^\| .*\| (in|out) `(\S+)` \| (\w+) \|", page, re.MULTILINE)
    actual = set()
    for graph in stated["graphs"].values():
        session = ort.InferenceSession(root / graph["file"])
        for side, tensors in (("in", session.get_inputs()), ("out", session.get_outputs())):
            actual |= {(side, each.name, each.type) for each in tensors}
    types = {"int64": "tensor(int64)", "float32": "tensor(float)"}
    assert printed
    assert {(side, name, types[kind]) for side, name, kind in printed} <= actual
    assert ("kept_tokens.0" in {name for _, name, _ in printed}) == (kind == "given")


@pytest.mark.parametrize(
    ("by", "keep", "ranked"),
    [("given", 3, False), ("exit", 0, False), ("last-token", 3, True), ("raters", 3, True)],
)
def test_the_page_says_what_ranks_the_tokens_of_a_stage(tmp_path, by, keep, ranked):
    """Only the page is written, so that the graph need not be of another kind."""
    root = tmp_path / "a"
    read_scores(root, write_artifact(root, budgets=(6,)), 3)
    data = read_manifest(root)
    data["decoder"]["stages"] = [{"layer": 1, "keep": keep, "by": by}]
    write_manifest(root, data)
    write_using(Artifact.open(root))
    page = (root / USING).read_text()
    assert "Prefill a whole prompt in one run" in page
    assert ("it is what ranks the visual tokens" in page) == ranked
    assert ("`visual_scores` ranks them" in page) == (by == "given")
