"""LLaVA-NeXT end to end: artifacts in both layouts and for both engines, held against transformers'
own model."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.layouts import open_layout
from pocketvlm.vision.constants import read_constants
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_measure.profiler.costs import prefill_flops, tower_flops
from pocketvlm_measure.profiler.questions import noise_picture
from support.gguf_files import needs_llama_cpp

BUDGET, N, SIDE = 9, 36, 6
# (width, height): grids of 2x2 padded at both sides or none, 3x1, 1x3 and 1x2, and a sliver
SIZES = [(60, 84), (84, 84), (40, 130), (200, 50), (90, 41), (3, 400)]
QUESTION = "what is in the picture?"
STEPS = 16


def picture(width, height):
    pixels = np.random.default_rng(width + height).integers(
        0, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-llava-next")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Artifacts by name, each exported once."""
    made = {}
    options = {
        "none": ExportOptions(pruner="none"),
        "fastervlm": ExportOptions("fastervlm", budgets=(BUDGET,)),
        "hf": ExportOptions("fastervlm", budgets=(BUDGET,), layout="hf"),
    }

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("next") / name
            export(str(checkpoint), made[name], options[name])
        return made[name]

    return get


class Theirs:
    """transformers' model and processor; what they do not do, pruning, is spelt out in torch over
    their modules."""

    def __init__(self, folder):
        self.model = LlavaNextForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.processor = AutoProcessor.from_pretrained(folder, use_fast=False)

    def inputs(self, image):
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        ]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return self.processor(images=image, text=text, return_tensors="pt")

    @torch.inference_mode()
    def features(self, image):
        given = self.inputs(image)
        return self.model.model.get_image_features(
            given["pixel_values"], given["image_sizes"]
        ).pooler_output[0]

    @torch.inference_mode()
    def pruned(self, image, layout):
        """[CLS]'s attention in the layer that is read, the best of each tile, in the order that
        ``layout`` says."""
        given, model = self.inputs(image), self.model.model
        tiles = given["pixel_values"][0]
        output = model.vision_tower(tiles, output_hidden_states=True, output_attentions=True)
        scores = output.attentions[-2][:, :, 0, 1:].mean(dim=1)  # (tiles, N)
        features = model.multi_modal_projector(output.hidden_states[-2][:, 1:])
        best = torch.argsort(-scores, dim=1, stable=True)[:, :BUDGET]
        keep = torch.zeros(len(tiles), N, dtype=torch.bool).scatter(1, best, True)
        marked = torch.cat(
            [features, keep[..., None].float()], dim=-1
        )  # whether it is kept travels with a feature
        if layout == "hf":
            newline = torch.cat([model.image_newline, torch.ones(1)])  # never dropped
            (packed,), _ = model.pack_image_features(
                [marked], given["image_sizes"], "default", image_newline=newline
            )
        else:
            rows, columns = self.grid(given["image_sizes"][0])
            parts = (
                marked[1:].view(rows, columns, SIDE, SIDE, -1).permute(0, 2, 1, 3, 4).flatten(0, 3)
            )
            packed = torch.cat([marked[0], parts])
        kept = torch.stack(
            [torch.arange(N)[row] + number * N for number, row in enumerate(keep)]
        ).flatten()
        return packed[packed[:, -1] > 0.5][:, :-1], kept.tolist()

    def grid(self, size):
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        return get_anyres_image_grid_shape(size, self.model.config.image_grid_pinpoints, 42)

    @torch.inference_mode()
    def answer(self, image, features):
        """Greedy tokens, and the logits before the first, with ``features`` in place of the
        picture."""
        ids = self.inputs(image)["input_ids"][0]
        slots = ids == self.model.config.image_token_id
        first = int(slots.nonzero()[0])
        text = self.model.get_input_embeddings()(ids[~slots])
        embeds = torch.cat([text[:first], features, text[first:]])[None]
        token_ids, logits = [], []
        while len(token_ids) < STEPS and self.eos not in token_ids:
            logits.append(self.logits(embeds))
            token_ids.append(int(logits[-1].argmax()))
            embeds = torch.cat(
                [embeds, self.model.get_input_embeddings()(torch.tensor([[token_ids[-1]]]))], dim=1
            )
        return token_ids, logits[0].numpy()

    def logits(self, embeds):
        return self.model.lm_head(
            self.model.model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1]
        )

    @property
    def eos(self):
        return self.model.generation_config.eos_token_id


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return Theirs(checkpoint)


def ours(folder, image, **options):
    """What the runtime's parts make of a picture: prompt ids, features, logits before the first
    token, the answer."""
    vlm = VLM.load(folder, **options)
    answerer = vlm.parts
    (prepared,) = answerer.viewer.prepare([image], vlm.budget)
    segment = answerer.viewer.encode(prepared, cached=False)
    ids = answerer.prompter.place(answerer.prompter.encode(QUESTION, 1), [prepared.ids])
    logits = answerer.decoder.sequence().prefill(answerer.prompter.segments(ids, [segment]))
    return (
        ids,
        segment.inputs_embeds,
        logits,
        vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=STEPS)),
    )


def near(result, expected):
    return np.abs(result - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
def test_unpruned_it_is_transformers(exported, theirs, size):
    image = picture(*size)
    given = theirs.inputs(image)
    features = theirs.features(image).numpy()
    with torch.inference_mode():
        whole = theirs.model(**given).logits[0, -1].numpy()
        expected_ids = theirs.model.generate(do_sample=False, max_new_tokens=STEPS, **given)[
            0, given["input_ids"].shape[1] :
        ]
    ids, result, logits, answer = ours(exported("none"), image)
    assert ids.tolist() == given["input_ids"][0].tolist()
    assert result.shape == features.shape
    assert near(result, features)
    assert near(logits, whole)
    assert answer.token_ids == expected_ids.tolist()
    assert answer.visual_tokens == {"before": len(features), "after": len(features)}


@pytest.mark.parametrize("layout", ["fastervlm", "hf"])
@pytest.mark.parametrize("size", SIZES)
def test_pruned_it_is_what_the_layout_says(exported, theirs, size, layout):
    image = picture(*size)
    expected, kept = theirs.pruned(image, layout)
    expected_ids, first = theirs.answer(image, expected)
    ids, result, logits, answer = ours(exported(layout), image)
    assert result.shape == expected.shape
    assert near(result, expected.numpy())
    assert near(logits, first)
    assert answer.token_ids == expected_ids
    assert answer.kept_indices == [kept]
    rows, columns = theirs.grid(theirs.inputs(image)["image_sizes"][0])
    tiles = 1 + rows * columns
    unpruned = tiles * N if layout == "fastervlm" else len(theirs.features(image))
    assert answer.visual_tokens == {"before": unpruned, "after": len(expected)}
    if layout == "fastervlm":
        assert len(expected) == BUDGET * tiles
    assert int((ids == theirs.model.config.image_token_id).sum()) == len(expected)


@needs_llama_cpp
def test_llama_cpp_answers_as_transformers_does(checkpoint, theirs, tmp_path):
    options = ExportOptions(
        "fastervlm", budgets=(BUDGET,), layout="hf", decoder="llama.cpp", gguf_types=("f32",)
    )
    report = export(str(checkpoint), tmp_path / "artifact", options)
    assert report.manifest.parity.by_precision["f32"]["greedy_equal"] == STEPS
    image = picture(60, 84)
    expected, _ = theirs.pruned(image, "hf")
    vlm = VLM.load(tmp_path / "artifact")
    assert (
        vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=STEPS)).token_ids
        == theirs.answer(image, expected)[0]
    )


def test_two_pictures_of_different_grids(exported):
    vlm = VLM.load(exported("hf"))
    images = [picture(84, 84), picture(200, 50)]
    both = vlm.generate("which is larger?", images, budget=2, sampling=Sampling(max_new_tokens=3))
    alone = [
        vlm.generate("which is larger?", [image], budget=2, sampling=Sampling(max_new_tokens=1))
        for image in images
    ]
    assert both.kept_indices == [answer.kept_indices[0] for answer in alone]
    assert both.visual_tokens["after"] == sum(answer.visual_tokens["after"] for answer in alone)


def test_the_manifest_says_what_each_grid_comes_to(exported):
    totals = {
        name: Artifact.open(exported(name)).manifest.vision.totals
        for name in ("none", "fastervlm", "hf")
    }
    assert totals["fastervlm"] == {"9": {"1x2": 27, "2x1": 27, "1x3": 36, "3x1": 36, "2x2": 45}}
    # 36 of the whole, and rows of patches and a newline each
    assert totals["none"]["36"] == {
        "1x2": 36 + 6 * 13,
        "2x1": 36 + 12 * 7,
        "1x3": 150,
        "3x1": 162,
        "2x2": 36 + 12 * 13,
    }
    assert totals["hf"]["9"]["2x2"] == 45 + 12
    layout = open_layout(Artifact.open(exported("hf")))
    assert layout.steps.crop_to == (42, 42)


def test_other_clients_are_promised_nothing(exported, theirs):
    folder = exported("fastervlm")
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["processor_class"] == "LlavaNextProcessor"
    assert (
        processor["num_additional_image_tokens"],
        processor["vision_feature_select_strategy"],
    ) == (1, "default")
    assert "transformers.js_config" not in json.loads((folder / "config.json").read_text())
    card = " ".join((folder / "README.md").read_text().split())
    assert "transformers.js and other clients may not" in card
    assert "45 (2x2) per picture" in card
    page = (folder / "USING.md").read_text()
    assert "42 x 84, 84 x 42, 84 x 84, 126 x 42, 42 x 126" in page
    assert "image_newline" not in page
    whole = exported("none")
    page = (whole / "USING.md").read_text()
    assert "`image_newline` is the same for every picture" in page
    assert "the file `constants/image_newline.bin` holds it" in page
    assert not (folder / "constants").exists()
    newline = np.fromfile(whole / "constants" / "image_newline.bin", "<f4")
    np.testing.assert_array_equal(newline, read_constants(Artifact.open(whole))["image_newline"])
    np.testing.assert_array_equal(newline, theirs.model.model.image_newline.detach().numpy())


@pytest.mark.parametrize(
    ("total", "layout", "budget", "largest"),
    [
        (45, None, 9, 45),
        (49, None, 9, 45),
        (180, None, 36, 180),
        (5, None, 1, 5),
        (57, "hf", 9, 57),
        (192, "hf", 36, 192),
    ],
)
def test_total_budgets_are_of_the_largest_grid(checkpoint, total, layout, budget, largest):
    plan = make_plan(
        inspect_checkpoint(str(checkpoint)), ExportOptions(total_budgets=(total,), layout=layout)
    )
    assert plan.budgets == (budget,)
    assert max(plan.totals()[budget].values()) == largest <= total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"total_budgets": (4,)},
            "total budget 4 is less than a picture takes .*: give at least 5",
        ),
        (
            {"total_budgets": (45,), "budgets": (9,)},
            "--budget 9 is per tile, --total-budget 45 of a whole picture",
        ),
        ({"total_budgets": (45, 46)}, "repeat a value"),
        ({"total_budgets": (45,), "pruner": "none"}, "keeps all 36 tokens, but the budget says 6"),
        ({"layout": "fastervlm", "pruner": "none"}, "leave --layout out or give --layout hf"),
        (
            {"layout": "single"},
            "layout 'single' is unknown to llava_next checkpoints: choose from fastervlm, hf",
        ),
        ({"budgets": (36,), "context": 200}, "context 200 does not hold a picture of 180 tokens"),
        (
            {"budgets": (36,), "context": 255, "layout": "hf"},
            "context 255 does not hold a picture of 192 tokens",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(checkpoint, options, message):
    with pytest.raises(PocketVLMError, match=message):
        make_plan(inspect_checkpoint(str(checkpoint)), ExportOptions(**options))


def test_a_context_that_the_largest_grid_outgrows_is_refused(make_tiny):
    short = make_tiny(PRESETS["tiny-llava-next"].but(text={"max_position_embeddings": 250}))
    with pytest.raises(PocketVLMError, match="context 250 does not hold a picture of 192 tokens"):
        make_plan(inspect_checkpoint(str(short)), ExportOptions(pruner="none"))


def test_a_profile_counts_tokens_and_flops_of_all_tiles(exported, tmp_path):
    folder = exported("fastervlm")
    Image.new("RGB", (84, 84)).save(tmp_path / "square.png")
    arguments = [
        "profile",
        str(folder),
        "--image",
        str(tmp_path / "square.png"),
        "--repeat",
        "1",
        "--warmup",
        "0",
    ]
    result = CliRunner().invoke(
        main, [*arguments, "--new-tokens", "2", "-o", str(tmp_path / "p.jsonl")]
    )
    assert result.exit_code == 0, result.stderr
    assert "180 visual tokens in 5 tiles before pruning" in result.output
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    figures = {
        (row["budget"], row["visual_tokens_before"], row["visual_tokens_after"], row["tiles"])
        for row in rows
    }
    assert figures == {(9, 180, 45, 5)}
    tower = Artifact.open(folder).manifest.vision.tower
    one = tower_flops(tower.sequence, tower.hidden, tower.intermediate, tower.layers)
    assert {row["flops_vision"] for row in rows} == {5 * one}
    assert {row["flops"] for row in rows} == {prefill_flops(45, 64, 96, 2)}
    # Noise, where no picture is given, is as large as the largest grid.
    assert noise_picture(Artifact.open(folder)).shape == (84, 84, 3)


def test_inspect_says_what_a_budget_comes_to(exported, tmp_path):
    picture(60, 84).save(tmp_path / "p.png")
    arguments = [
        "--image",
        str(tmp_path / "p.png"),
        "--overlay",
        str(tmp_path / "o.png"),
        "--budget",
        "2",
    ]
    result = CliRunner().invoke(main, ["inspect", str(exported("fastervlm")), *arguments])
    assert "36 tokens per tile -> 9 (default)" in result.output
    assert (
        "9 per tile come to 27 (1x2), 27 (2x1), 36 (1x3), 36 (3x1), 45 (2x2) visual tokens "
        "per picture" in result.output
    )
    assert f"{tmp_path / 'o.png'}: 10 patches kept" in result.output
    with Image.open(tmp_path / "o.png") as drawn:
        assert drawn.width > drawn.height  # the whole beside its parts


def test_features_from_a_cache_cost_no_run_of_the_graph(exported, tmp_path, monkeypatch):
    image, calls, real = picture(60, 84), [], VisionEncoder.encode
    monkeypatch.setattr(
        VisionEncoder,
        "encode",
        lambda self, pixels, *rest: calls.append(len(pixels)) or real(self, pixels, *rest),
    )
    answers = []
    for expected in ([5], []):  # the tiles; then none, as the features lie in the folder
        vlm = VLM.load(exported("none"), feature_cache=tmp_path / "kept")
        assert calls == []
        answers.append(
            vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=6)).token_ids
        )
        vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=1))
        assert calls == expected
        calls.clear()
    assert answers[0] == answers[1]
