"""The recipe of the reference checkpoint on a tiny tower and decoder and pictures drawn here: right
answers, splits apart, learning that goes on where it was stopped, and a checkpoint that answers as
it was trained."""

import json
import xml.etree.ElementTree as ET
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import decoders, pre_tokenizers
from transformers import (
    AutoProcessor,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

pytest.importorskip("peft")

from make_checkpoint.text import train_bpe
from pocketvlm.artifact import Artifact
from pocketvlm.media.pictures import open_picture
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.evaluation.media import source_of
from pocketvlm_measure.evaluation.questions import read_questions
from reference_vlm.__main__ import join, processor_of, write_checkpoint
from support.tiny_artifact import write_artifact
from train_demo.data import Packer
from train_demo.scenes import PLACES
from train_demo.training import Stage
from train_reference import coverage, features, training
from train_reference.__main__ import write_questions
from train_reference.curve import draw, read_points, table
from train_reference.features import encode, pixel_values, scenes_of
from train_reference.probe import classes_of, cls_tokens, linear_accuracy
from train_reference.scenes import IMAGE_SIZE, KINDS, question_set, questions, render, scene_rng
from train_reference.sources import ChecksumError, NpmPackage, fetch_archive
from train_reference.things import CIFAR_NOUNS, COLOURS, NOUNS, Catalogue, Thing, colour_of
from train_reference.training import Plan, Reader, Trained, form_of, train_all
from train_reference.words import targets_of

LAYER = -2
PLAN = Plan(
    Stage("words", 6, 4, 2e-3, 6, report_every=3),
    Stage("pooled", 4, 2, 1e-3, 4, ((2, 1),), report_every=2, save_every=1),
    Stage("whole", 2, 2, 1e-3, 2, report_every=2, save_every=1),
)


@pytest.fixture(scope="module")
def catalogue():
    """Two things a noun, one of them red, and two photographs of noise."""
    rng = np.random.default_rng(0)
    things = {}
    for noun in NOUNS:
        red = np.full((8, 8, 4), (220, 20, 20, 255), dtype=np.uint8)
        noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        things[noun] = [Thing(noun, "red", red), Thing(noun, None, noise)]
    noise = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(2)]
    return Catalogue(things, [Image.fromarray(one) for one in noise])


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2,
        image_size=IMAGE_SIZE,
        patch_size=14,
        use_mask_token=False,
    )
    return Dinov2Model(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
    core = train_bpe([*NOUNS, *PLACES, "system user assistant"], 300, special)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>"},
    )


def language(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,  # so that what is read changes what is answered
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(tower, tokenizer):
    return lambda: join(tower, language(tokenizer), tokenizer, 0)


@pytest.fixture(scope="module")
def encoded(tower, catalogue, tmp_path_factory):
    """Training and held-out scenes."""
    folder = tmp_path_factory.mktemp("features")
    return [
        encode(tower, LAYER, catalogue, split, count, folder)
        for split, count in (("train", 24), ("validation", 6))
    ]


def test_answers_follow_from_the_scene(catalogue):
    for index, scene in enumerate(scenes_of(catalogue, "validation", 100)):
        asked = list(questions(scene, scene_rng("validation", index)))
        places = {thing.noun: thing.place for thing in scene.things}
        named = dict(one.text.rsplit(" the ", 1)[::-1] for one in asked if one.kind == "place")
        assert {noun.rstrip("?") for noun in named} == set(places)
        for one in asked:
            noun = one.text.rstrip("?").split(" ")[-1]
            if one.kind == "place":
                assert places[noun] == one.answer
            elif one.kind == "name":
                assert places[one.answer] in one.text
            elif one.kind == "presence":
                assert (one.answer == "yes") == (noun in places)
            elif one.kind == "count":
                assert one.answer == ("one", "two", "three")[len(places) - 1]
            else:
                assert one.answer == "red"
        for thing in scene.things:
            centre = ((thing.left + thing.edge / 2), (thing.top + thing.edge / 2))
            column, row = (int(at * 3 / IMAGE_SIZE) for at in centre)
            assert PLACES[row * 3 + column] == thing.place


def test_a_thing_is_where_the_scene_says(catalogue):
    for index in range(20):
        (scene,) = scenes_of(catalogue, "train", index + 1)[index:]
        without = np.asarray(render(replace(scene, things=()), catalogue)).astype(int)
        changed = (np.asarray(render(scene, catalogue)) != without).any(-1)
        inside = np.zeros_like(changed)
        for thing in scene.things:
            inside[thing.top : thing.top + thing.edge, thing.left : thing.left + thing.edge] = True
        assert not (changed & ~inside).any()
        assert (changed & inside).sum() > 0.9 * inside.sum()


def test_splits_draw_different_scenes(catalogue):
    drawn = {
        split: {repr(scene) for scene in scenes_of(catalogue, split, 100)}
        for split in ("train", "validation", "test")
    }
    assert len(set.union(*drawn.values())) == 300


def test_a_question_set_takes_the_kinds_in_turn(catalogue, tmp_path):
    asked = list(question_set(catalogue, "test", 400, 4))
    assert len({id(picture) for picture, _ in asked}) == 100
    for start in range(0, 400, 4):
        some = [question for _, question in asked[start : start + 4]]
        assert len({one.text for one in some}) == 4
        assert len({one.kind for one in some}) == 4  # only colours can be missing
    counts = [sum(one.kind == kind for _, one in asked) for kind in KINDS]
    assert min(counts) > 40
    data = read_questions(write_questions(catalogue, tmp_path, "test", 10, 4))
    assert not data.broken
    for question, (picture, one) in zip(data.questions, asked, strict=False):
        assert (question.text, question.answers, question.tags) == (
            one.text,
            (one.answer,),
            (one.kind,),
        )
        assert open_picture(source_of(question.images[0])).tobytes() == picture.tobytes()
    assert len(data.questions) == 10
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("pixel", "colour"),
    [
        ((220, 20, 20), "red"),
        ((250, 140, 10), "orange"),
        ((120, 70, 30), "brown"),
        ((20, 20, 20), "black"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), None),
    ],
)
def test_colours_of_what_is_opaque(pixel, colour):
    picture = np.full((10, 10, 4), (*pixel, 255), dtype=np.uint8)
    picture[:5] = (0, 0, 255, 0)  # nobody sees it
    assert colour_of(picture) == colour
    picture[5:7, :, :3] = (40, 200, 40)  # 40 per cent of another
    assert colour_of(picture) != colour or colour is None


def test_words_of_patches_are_of_what_covers_them(catalogue):
    scenes = scenes_of(catalogue, "train", 30)
    for scene, targets in zip(scenes, targets_of(scenes, 16), strict=True):
        nouns = {NOUNS[t - 1] for t in targets[:, 0].tolist() if t}
        assert nouns == {thing.noun for thing in scene.things}
        for number, (noun, place, colour) in enumerate(targets.tolist()):
            y, x = 14 * (number // 16) + 7, 14 * (number % 16) + 7
            on = {
                thing.noun: thing.colour
                for thing in scene.things
                if thing.left <= x <= thing.left + thing.edge
                and thing.top <= y <= thing.top + thing.edge
            }
            if noun:
                assert on[NOUNS[noun - 1]] == (COLOURS[colour] if colour >= 0 else None)
            else:
                assert colour < 0
            border = number // 16 in (5, 10) or number % 16 in (5, 10)  # between cells
            assert border or place == int(y * 3 / 224) * 3 + int(x * 3 / 224)


def test_features_are_the_towers_and_go_on_after_a_stop(tower, catalogue, tmp_path, monkeypatch):
    whole = encode(tower, LAYER, catalogue, "train", 7, tmp_path / "whole")
    with torch.inference_mode():
        pictures = pixel_values([render(scene, catalogue) for scene in whole.scenes])
        expected = tower(pictures, output_hidden_states=True).hidden_states[LAYER][:, 1:]
    np.testing.assert_allclose(whole.features, expected.numpy(), atol=0.02 * expected.abs().max())
    monkeypatch.setattr(features, "_CHUNK", 2)
    drawn = []

    def draw(scene, _):
        drawn.append(scene)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return render(scene, catalogue)

    monkeypatch.setattr(features, "render", draw)
    with pytest.raises(KeyboardInterrupt):
        encode(tower, LAYER, catalogue, "train", 5, tmp_path / "parts")
    for count in (5, 7):  # the rest, then more of them
        parts = encode(tower, LAYER, catalogue, "train", count, tmp_path / "parts")
    assert drawn[4:] == whole.scenes[2:]
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-2)


def test_things_that_keep_a_patch(catalogue, tmp_path, monkeypatch):
    (scene,) = [one for one in scenes_of(catalogue, "test", 30) if len(one.things) == 2][:1]
    inside = [
        16 * ((thing.top + thing.edge // 2) // 14) + (thing.left + thing.edge // 2) // 14
        for thing in scene.things
    ]
    (corner,) = [
        patch
        for patch in (0, 15, 240, 255)
        if all(max(abs(patch // 16 - at // 16), abs(patch % 16 - at % 16)) > 4 for at in inside)
    ][:1]
    kept = {4: [*inside, corner], 2: [inside[1], corner], 1: [corner]}
    monkeypatch.setattr(
        coverage, "draw_budgets", lambda *_: {k: (None, of) for k, of in kept.items()}
    )
    monkeypatch.setattr(coverage, "open_encoders", lambda *_: {})
    pruning = SimpleNamespace(method="uniform", tokens_before=256)
    artifact = SimpleNamespace(manifest=SimpleNamespace(pruning=pruning))
    shares = coverage.kept_things(artifact, [(scene, None)], [4, 2, 1])
    assert shares == {4: 1.0, 2: 0.5, 1: 0.0}
    lines = coverage.table({"A": shares, "B": {4: 1.0, 2: 1.0, 1: 0.25}}, 16).splitlines()
    assert lines == [
        "| method | 25% (4) | 12% (2) | 6% (1) |",
        "|---|---|---|---|",
        "| B | 100.0 | 100.0 | 25.0 |",
        "| A | 100.0 | 50.0 | 0.0 |",
    ]
    write_artifact(tmp_path / "one")
    (method,) = coverage.plain_methods(tmp_path)
    assert method == find_pruner(Artifact.open(tmp_path / "one").manifest.pruning.method).title


def test_a_linear_probe(tower, catalogue):
    things = [one for noun in CIFAR_NOUNS for one in catalogue.things[noun] if not one.colour]
    last, before = cls_tokens(tower, things)
    with torch.inference_mode():
        picture = Image.fromarray(things[3].picture).resize((112, 112), Image.Resampling.BICUBIC)
        states = tower(pixel_values([picture]), output_hidden_states=True).hidden_states
    for ours, theirs in ((last, states[-1]), (before, states[-2])):
        np.testing.assert_allclose(ours[3], theirs[0, 0], atol=1e-5)
    assert classes_of(things).tolist() == list(range(10))
    rng = np.random.default_rng(0)
    directions, classes = rng.normal(size=(10, 32)), rng.integers(0, 10, 600)
    noisy = (directions[classes] + rng.normal(size=(600, 32))).astype(np.float32)
    fit, test = slice(None, 400), slice(400, None)
    assert linear_accuracy(noisy[fit], classes[fit], noisy[test], classes[test]) > 0.95
    shuffled = rng.permutation(classes)  # nothing to be read
    assert linear_accuracy(noisy[fit], shuffled[fit], noisy[test], shuffled[test]) < 0.25


def test_pooling_averages_squares(encoded):
    pooled = encoded[0].pooled(np.array([3]), 8)[0]
    grid = np.asarray(encoded[0].features[3], dtype=np.float32).reshape(16, 16, -1)
    for row, column in ((0, 0), (2, 5), (7, 7)):
        square = grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((0, 1))
        np.testing.assert_allclose(pooled[8 * row + column], square, rtol=1e-5, atol=1e-6)


def test_packed_questions_are_read_as_the_processor_writes_them(
    model, tokenizer, encoded, monkeypatch
):
    """The same tokens, and the same logits as of each question alone."""
    monkeypatch.setattr(training.torch, "autocast", lambda *_: nullcontext())  # rounds to 8 bits
    llava = model()
    processor = processor_of(llava.config, tokenizer)
    packer = Packer(tokenizer, 256, form=form_of(processor), kinds=KINDS, length=None)
    asked = list(questions(encoded[0].scenes[0], np.random.default_rng(1)))
    batch = packer.arrange([asked])
    image = encoded[0].pooled(np.array([0]), 16)
    with torch.no_grad():
        logits = Reader(llava, packer, 16)(image, batch)
    number = batch.segments[0][batch.labels[0] >= 0]
    for segment, question in enumerate(asked, start=1):
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        text = prompt.replace("<image>", "<image>" * 256) + question.answer + "<|im_end|>"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        own = (batch.segments[0] == 0) | (batch.segments[0] == segment)
        assert batch.input_ids[0][own].tolist() == ids[0].tolist()
        with torch.no_grad():
            embeds = llava.get_input_embeddings()(ids)
            projected = llava.model.multi_modal_projector(image[0])
            embeds[ids == llava.config.image_token_id] = projected
            hidden = llava.model.language_model(inputs_embeds=embeds).last_hidden_state
            alone = llava.lm_head(hidden)[0]
        expected = logits[number == segment]
        assert expected.std() > 0.1
        torch.testing.assert_close(alone[-len(expected) - 1 : -1], expected, atol=1e-4, rtol=1e-4)
        labels = batch.labels[0][batch.segments[0] == segment]
        answer = tokenizer.encode(question.answer, add_special_tokens=False)
        assert labels[labels >= 0].tolist() == [*answer, tokenizer.eos_token_id]


def test_training_goes_on_where_it_was_stopped_and_is_written(
    model, tokenizer, encoded, tmp_path, monkeypatch
):
    processor = processor_of(model().config, tokenizer)

    def run(folder, llava):
        train_all(PLAN, llava, processor, *encoded, folder, 0, lambda _: None)
        return llava

    whole = run(tmp_path / "whole", model())
    stopped, steps = model(), []
    real = Reader.loss

    def loss(self, *batch):
        steps.append(batch)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(self, *batch)

    monkeypatch.setattr(Reader, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stopped)
    resumed = run(tmp_path / "parts", model())
    assert len(steps) == 3 + 2 + 2  # two steps of the first reader's were kept
    start, end = model().state_dict(), whole.state_dict()
    assert set(start) == set(end)  # adapters are merged
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert any("multi_modal_projector" in name for name in changed)
    assert all("projector" in name or "_proj.weight" in name for name in changed)
    for name, weight in resumed.state_dict().items():
        torch.testing.assert_close(weight, end[name])
    # Frozen weights, tied ones too, are not part of what is written every few minutes.
    written = torch.load(tmp_path / "parts" / "pooled.pt", weights_only=True)["modules"]
    assert all("projector" in name or "lora_" in name for name in written)
    points = [json.loads(one) for one in (tmp_path / "parts" / "curve.jsonl").open()]
    assert [(one["stage"], one["step"]) for one in points] == [
        ("words", 3),
        ("words", 6),
        ("pooled", 2),
        ("pooled", 4),
        ("whole", 2),
    ]
    assert all(set(KINDS) <= set(one) for one in points[2:])

    trained = Trained.last(PLAN, tmp_path / "parts")
    assert (trained.stage, trained.step) == ("whole", 2)
    trained.write(file := tmp_path / "adapters.safetensors")
    assert file.stat().st_size < sum(2 * one.numel() for one in trained.weights.values()) + 10_000
    for kept, exact in ((trained, True), (Trained.read(file), False)):
        assert (kept.stage, kept.step) == ("whole", 2)
        kept.put_into(again := model())
        tolerance = {} if exact else {"atol": 2e-3, "rtol": 2e-3}  # halves of low-rank factors
        for name, weight in again.state_dict().items():
            torch.testing.assert_close(weight, end[name], **tolerance)
    others = Trained({**trained.weights, "model.further": torch.zeros(1)}, "whole", 2)
    with pytest.raises(ValueError, match="another model"):
        others.put_into(model())
    with pytest.raises(FileNotFoundError, match="train first"):
        Trained.last(PLAN, tmp_path / "nothing")

    write_checkpoint(whole, tokenizer, tmp_path / "checkpoint", "a card")
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    for name, weight in loaded.state_dict().items():
        torch.testing.assert_close(weight.float(), end[name].float(), atol=2e-3, rtol=2e-3)
    pictures = AutoProcessor.from_pretrained(tmp_path / "checkpoint").image_processor
    assert pictures.size["shortest_edge"] == IMAGE_SIZE


def test_a_package_that_is_another_than_the_recipes_is_refused(tmp_path):
    (tmp_path / "some-1.0.tgz").write_bytes(b"something else")
    with pytest.raises(ChecksumError, match=r"some-1\.0\.tgz"):
        fetch_archive(NpmPackage("some", "1.0", "0" * 64), tmp_path)


def test_the_curve_has_a_row_a_point_and_the_last_of_a_step(tmp_path):
    def point(stage, step, exact):
        shares = {"exact": exact, **dict.fromkeys(KINDS, exact)}
        return {"stage": stage, "step": step, "pictures": 8 * step, "loss": 1.0, **shares}

    words = {"stage": "words", "step": 5, "pictures": 9, "loss": 2.0, "noun": 0.5}
    some = [words, point("pooled", 1, 0.1), point("pooled", 2, 0.2), point("whole", 1, 0.3)]
    file = tmp_path / "curve.jsonl"
    lines = [json.dumps(one) + "\n" for one in [*some[:2], point("pooled", 2, 0.9), *some[2:]]]
    file.write_text("".join(lines))
    points = read_points(file)
    assert points == some
    rows = table(points).splitlines()[2:]
    assert [row.split(" | ")[:5] for row in rows] == [
        ["| pooled", "1", "8", "1.000", "10.0"],
        ["| pooled", "2", "16", "1.000", "20.0"],
        ["| whole", "1", "8", "1.000", "30.0"],
    ]
    assert ET.fromstring(draw(points)).tag.endswith("svg")
    assert draw(points) == draw(points)
