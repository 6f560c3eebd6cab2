"""SmolVLM and Idefics3 from checkpoint to answer, against transformers' own models, processor and
numpy."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, PretrainedConfig

from make_checkpoint import PRESETS
from make_checkpoint.text import make_tiling_processor
from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.cli import main
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.graphs.readings import mean_of_squares
from pocketvlm_export.loading import inspect_checkpoint, open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference
from support.checkpoints import edit_json, edit_pictures
from support.gguf_files import needs_llama_cpp

TILE, N, SQUARE = 84, 36, 2
SIZES = [(100, 50), (40, 84), (90, 90)]  # (width, height): cut into 1 x 2, 2 x 1 and 2 x 2 parts
QUESTION = "what is in the picture?"
WITHOUT_CLS = [name for name in PRUNERS if not {"cls_row", "text"} & find_pruner(name).reads]


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height // 3, width // 3, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels).resize((width, height))


class Theirs:
    """transformers' model of a checkpoint with its processor, whose tiles take ``budget`` slots
    each."""

    def __init__(self, folder):
        with quiet_transformers():
            self.model = AutoModelForImageTextToText.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        stated = json.loads((folder / "preprocessor_config.json").read_text())
        self.pictures = {
            key: stated[key] for key in ("size", "max_image_size", "do_image_splitting")
        }

    def prepare(self, text, images, budget=N):
        processor = make_tiling_processor(
            self.tokenizer, self.model.config.model_type, self.pictures, budget
        )
        content = [
            *({"type": "image", "image": image} for image in images),
            {"type": "text", "text": text},
        ]
        with quiet_transformers():
            return processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    def received(self, tile):
        """Scores of a tile's tokens, (N,): what their patches are paid on average, in float64."""
        output = self.model.model.vision_model(tile[None], output_attentions=True)
        paid = output.attentions[-1][0].double().mean(dim=(0, 1)).numpy().reshape(12, 12)
        return np.array(
            [paid[y : y + 2, x : x + 2].mean() for y in range(0, 12, 2) for x in range(0, 12, 2)]
        )

    @torch.inference_mode()
    def answer(self, text, images, budget=N, steps=16, kept=None):
        """(token ids, logits before the first, kept indices numbered on from tile to tile).

        Kept is what is given, (tiles, budget), or what is paid most.
        """
        inputs = self.prepare(text, images, budget)
        tiles = inputs["pixel_values"][0]
        features = (
            self.model.model.get_image_features(inputs["pixel_values"])
            .pooler_output[0]
            .unflatten(0, (-1, N))
        )
        if kept is None:
            kept = [
                np.sort(np.argsort(-self.received(tile), kind="stable")[:budget]) for tile in tiles
            ]
        rows = torch.stack(
            [each[torch.from_numpy(at)] for each, at in zip(features, kept, strict=True)]
        )
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == self.model.config.image_token_id] = rows.flatten(0, 1)
        logits = self.model(inputs_embeds=embeds).logits[0, -1].numpy()
        expected_ids = self.model.generate(
            inputs_embeds=embeds, do_sample=False, max_new_tokens=steps
        )[0].tolist()
        return (
            expected_ids,
            logits,
            [int(number) for number in np.concatenate([at + N * i for i, at in enumerate(kept)])],
        )


@pytest.fixture(scope="module")
def smolvlm(make_tiny):
    return make_tiny("tiny-smolvlm")


@pytest.fixture(scope="module")
def tied(make_tiny):
    return make_tiny(PRESETS["tiny-idefics3"].but(text={"tie_word_embeddings": True}))


@pytest.fixture(scope="module", params=["smolvlm", "tied"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def pruned(smolvlm, tmp_path_factory):
    """By received attention; read only."""
    folder = tmp_path_factory.mktemp("smolvlm") / "pruned"
    export(str(smolvlm), folder, ExportOptions("received-attention", budgets=(9,)))
    return folder


def test_unpruned_it_is_transformers(checkpoint, tmp_path):
    report = export(str(checkpoint), tmp_path / "out", ExportOptions("none"))
    assert report.manifest.parity.decoder["greedy_equal"] == 16
    theirs, vlm = Theirs(checkpoint), VLM.load(tmp_path / "out")
    for size in SIZES:
        image = picture(*size)
        inputs = theirs.prepare(QUESTION, [image])
        (prepared,) = vlm.parts.viewer.prepare([image], N)
        assert np.abs(prepared.pixel_values - inputs["pixel_values"][0].numpy()).max() < 1e-5
        expected_ids, logits, _ = theirs.answer(QUESTION, [image])
        features = vlm.parts.viewer.encode(prepared, cached=False)
        with torch.inference_mode():
            (expected,) = theirs.model.model.get_image_features(
                inputs["pixel_values"]
            ).pooler_output
        np.testing.assert_allclose(features.inputs_embeds, expected, atol=1e-4)
        prompter = vlm.parts.prompter
        ids = prompter.place(prompter.encode(QUESTION, 1), [prepared.ids])
        assert ids.tolist() == inputs["input_ids"][0].tolist()
        ours = vlm.parts.decoder.sequence().prefill(prompter.segments(ids, [features]))
        assert np.abs(ours - logits).max() <= 1e-4 * max(1, np.abs(logits).max())
        assert (
            vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=16)).token_ids
            == expected_ids
        )


def test_several_pictures_of_different_grids(smolvlm, pruned):
    images = [picture(100, 40, seed=1), picture(90, 90, seed=2)]
    expected_ids, _, kept = Theirs(smolvlm).answer(QUESTION, images, budget=3, steps=6)
    answer = VLM.load(pruned).generate(
        QUESTION, images, budget=3, sampling=Sampling(max_new_tokens=6)
    )
    assert answer.token_ids == expected_ids
    first = 3 * 3  # of 1 x 2 parts and the whole
    assert [*answer.kept_indices[0], *(number + 3 * N for number in answer.kept_indices[1])] == kept
    assert [len(indices) for indices in answer.kept_indices] == [first, 5 * 3]
    assert answer.visual_tokens == {"before": (3 + 5) * N, "after": (3 + 5) * 3}


@pytest.mark.parametrize("budget", [9, 4])
def test_pruned_it_keeps_the_squares_that_are_attended_to_most(smolvlm, pruned, budget):
    theirs, vlm = Theirs(smolvlm), VLM.load(pruned)
    for size in SIZES:
        expected_ids, _, kept = theirs.answer(QUESTION, [picture(*size)], budget)
        answer = vlm.generate(
            QUESTION, [picture(*size)], budget=budget, sampling=Sampling(max_new_tokens=16)
        )
        assert answer.kept_indices == [kept]
        assert answer.token_ids == expected_ids


@pytest.mark.parametrize("name", WITHOUT_CLS)
def test_every_method_without_cls_keeps_what_its_oracle_keeps(smolvlm, name):
    checkpoint = open_checkpoint(str(smolvlm))
    spec, pixels = checkpoint.spec, gate_pictures(2, (TILE, TILE))
    pruner = make_plan(checkpoint, ExportOptions(name)).pruner
    budget = 7 if pruner.prunes else N
    with quiet_transformers(), torch.inference_mode():
        pruning = Pruning(name, N, (budget,), budget, pruner.options)
        expected = vision_reference(checkpoint, pruning, pixels)[budget]
        tower = checkpoint.family.load_tower(
            checkpoint.weights, spec, layers=spec.vision.depth, attention="eager"
        )
        projector = checkpoint.family.load_projector(checkpoint.weights, spec)
        encoder = PrunedVisionEncoder(tower, projector, spec.vision, pruner, budget)
        features, indices, _ = encoder(torch.from_numpy(pixels))
    np.testing.assert_array_equal(indices, expected.kept_indices)
    np.testing.assert_allclose(features, expected.image_features, atol=1e-4)


def test_what_the_manifest_says_of_tokens(pruned):
    manifest = Artifact.open(pruned).manifest
    assert manifest.pruning.tokens_before == N
    assert manifest.vision.totals["9"] == {"1x2": 27, "2x1": 27, "2x2": 45}
    assert manifest.vision.tower is not None
    assert manifest.vision.tower.sequence == N * SQUARE**2


@needs_llama_cpp
def test_llama_cpp_answers_alike_with_a_tied_head(tied, tmp_path):
    options = ExportOptions(
        "received-attention", budgets=(9,), decoder="llama.cpp", gguf_types=("f32",)
    )
    report = export(str(tied), tmp_path / "out", options)
    assert report.manifest.parity.by_precision["f32"]["greedy_equal"] == 16
    image = picture(90, 90)
    answer = VLM.load(tmp_path / "out").generate(
        QUESTION, [image], sampling=Sampling(max_new_tokens=8)
    )
    assert answer.token_ids == Theirs(tied).answer(QUESTION, [image], budget=9, steps=8)[0]


def test_a_picture_that_is_not_cut_and_a_method_that_reads_projected_tokens(make_tiny, tmp_path):
    source = make_tiny(PRESETS["tiny-idefics3"].but(pictures={"do_image_splitting": False}))
    report = export(str(source), tmp_path / "out", ExportOptions("divprune", budgets=(9,)))
    assert report.manifest.parity.vision["kept_equal"]
    image, theirs = picture(100, 60), Theirs(source)
    answer = VLM.load(tmp_path / "out").generate(
        QUESTION, [image], sampling=Sampling(max_new_tokens=16)
    )
    assert answer.visual_tokens == {"before": N, "after": 9}
    assert (
        answer.token_ids
        == theirs.answer(QUESTION, [image], 9, kept=np.array(answer.kept_indices))[0]
    )
    stated = json.loads((tmp_path / "out" / "using.json").read_text())
    expected = theirs.prepare(stated["prompt"]["question"], [image], 1)["input_ids"][0]
    assert stated["prompt"]["ids"] == expected.tolist()
    assert stated["cut"] is False


def test_mean_of_squares_is_a_mean_of_squares():
    spec = VisionSpec(
        PretrainedConfig(), (6, 9), tokens=6, has_cls=False, feature_layers=(1,), merge=3
    )
    assert spec.grid == (2, 3)
    maps = np.random.default_rng(0).random((2, 2, 54, 54)).astype(np.float32)
    result = mean_of_squares(torch.from_numpy(maps), spec).numpy()
    square = [
        [(3 * r + y) * 9 + 3 * c + x for y in range(3) for x in range(3)]
        for r in range(2)
        for c in range(3)
    ]
    for i, payer in enumerate(square):
        for j, payee in enumerate(square):
            expected = maps[:, :, payer][:, :, :, payee].mean(axis=(2, 3), dtype=np.float64)
            np.testing.assert_allclose(result[:, :, i, j], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["fastervlm", "vtc-cls"])
def test_what_needs_cls_is_refused_with_what_does_not(checkpoint, tmp_path, name):
    arguments = ["--pruner", name]
    result = CliRunner().invoke(
        main, ["export", str(checkpoint), "-o", str(tmp_path / "out"), *arguments]
    )
    assert result.exit_code == 1
    assert (
        f"no [CLS] token that {name} could rank patches by: choose from gprune, divprune, "
        "cdpruner, scope, score, received-att" in result.stderr
    )
    assert "--pruner received-attention" in result.stderr
    assert not (tmp_path / "out").exists()


def without_added_tokens(folder):
    stated = json.loads((folder / "tokenizer.json").read_text())
    stated["added_tokens"] = [
        each for each in stated["added_tokens"] if "fake" not in each["content"]
    ]
    stated["model"]["vocab"].pop("<fake_token_around_image>")
    (folder / "tokenizer.json").write_text(json.dumps(stated))
    named = json.loads((folder / "tokenizer_config.json").read_text())
    named.pop("extra_special_tokens", None)
    named.pop("additional_special_tokens", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda at: edit_pictures(at, max_image_size={"longest_edge": 42}),
            "tiles of 42 pixels",
        ),
        (
            lambda at: edit_json(at, scale_factor=5),
            "do not make whole squares of 5x5",
        ),
        (without_added_tokens, "no token <fake_token_around_image>"),
    ],
)
def test_what_an_artifact_could_not_do_alike_is_refused(smolvlm, tmp_path, damage, line):
    folder = shutil.copytree(smolvlm, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(PocketVLMError, match=line):
        inspect_checkpoint(str(folder))


def test_the_pages_beside_it_say_how_tiles_are_named(pruned):
    using = (pruned / "USING.md").read_text()
    assert "row 2, column 2" in using
    assert "other ids come between the rows of one tile and those of the next" in using
    assert "transformers.js_config" not in json.loads((pruned / "config.json").read_text())
    assert "patch_size" not in json.loads((pruned / "processor_config.json").read_text())
    assert "27 (1x2), 27 (2x1), 45 (2x2) per picture" in (pruned / "README.md").read_text()


def test_commands_work_on_it(pruned, tmp_path):
    file = tmp_path / "picture.png"
    picture(100, 50).save(file)
    run = CliRunner().invoke(
        main, ["run", str(pruned), "--image", str(file), "--prompt", "what?", "--json"]
    )
    assert len(json.loads(run.stdout)["kept_indices"][0]) == 3 * 9
    drawn = ["inspect", str(pruned), "--image", str(file), "--overlay", str(tmp_path / "kept.png")]
    assert "27 patches kept" in CliRunner().invoke(main, drawn).stdout
    sheet = Image.open(tmp_path / "kept.png")
    assert sheet.width > 3 * sheet.height  # the whole beside two parts
    arguments = [
        "profile",
        str(pruned),
        "--budget",
        "9,4",
        "--repeat",
        "1",
        "--warmup",
        "0",
        "-o",
        str(tmp_path / "p.jsonl"),
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    chat = VLM.load(pruned).chat()
    first, second = (
        chat.ask("what?", [picture(90, 90)], sampling=Sampling(max_new_tokens=2)),
        chat.ask("and?", sampling=Sampling(max_new_tokens=2)),
    )
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"] - 2


def test_one_tile_of_a_batch_is_seen_as_alone(pruned):
    encoder = VisionEncoder.open(Artifact.open(pruned))
    pixels = gate_pictures(3, (TILE, TILE))
    together, alone = encoder.encode(pixels), [encoder.encode(tile[None]) for tile in pixels]
    np.testing.assert_array_equal(
        together.kept_indices, np.concatenate([each.kept_indices for each in alone])
    )


def test_a_token_is_the_part_of_the_picture_that_its_number_says(smolvlm):
    """What a token's feature changes with most is the square of pixels in its row and column."""
    checkpoint = open_checkpoint(str(smolvlm))
    spec = checkpoint.spec
    with quiet_transformers():
        tower = checkpoint.family.load_tower(
            checkpoint.weights, spec, layers=spec.vision.depth, attention="eager"
        )
        projector = checkpoint.family.load_projector(checkpoint.weights, spec)
    encoder = PrunedVisionEncoder(tower, projector, spec.vision, make_pruner("none", {}), N)
    pixels = torch.from_numpy(gate_pictures(1, (TILE, TILE))).requires_grad_()
    features = encoder(pixels)[0][0]
    for number, feature in enumerate(features):
        (gradient,) = torch.autograd.grad(feature.square().sum(), pixels, retain_graph=True)
        by_square = gradient[0].square().sum(0).reshape(6, 14, 6, 14).sum((1, 3))
        assert int(by_square.argmax()) == number
