"""Still pictures on Video-LLaVA, alone and beside clips in one prompt, against transformers' own
model: its two towers, ids, features, logits and tokens, unpruned and pruned, on both engines."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration, VideoLlavaProcessor
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.cli import main
from pocketvlm.layouts import media_read, open_layouts
from pocketvlm_export import ExportOptions
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.packaging.using import facts
from pocketvlm_export.pipeline import prepare
from support.checkpoints import edit_json
from support.clips import numbered, write_clip
from support.gguf_files import HAS_LLAMA_CPP

BUDGET, N, FRAMES, STEPS = 9, 36, 8, 16
QUESTION = "what is in the picture?"
ENGINES = ("onnx", "llama.cpp") if HAS_LLAMA_CPP else ("onnx",)
GREEDY = Sampling(max_new_tokens=STEPS)
# What is shown, in the order of images and videos; the template puts pictures first.
SHOWN = {
    "a picture": (1, 0),
    "two pictures": (2, 0),
    "both": (1, 1),
    "two of each": (2, 2),
}


@pytest.fixture(scope="module")
def model(video_llava):
    return VideoLlavaForConditionalGeneration.from_pretrained(
        video_llava, attn_implementation="eager"
    ).eval()


class Theirs:
    """transformers' side of a question about pictures and clips."""

    def __init__(self, checkpoint, model, images, clips, text=QUESTION):
        self.model, self.config = model, model.config
        processor = VideoLlavaImageProcessor.from_pretrained(checkpoint)

        def pixels(frames):
            return np.stack(processor(frames, return_legacy_image_output=False)["pixel_values"])

        self.images = pixels(images) if images else None
        self.videos = np.stack([pixels(clip) for clip in clips]) if clips else None
        named = SimpleNamespace(
            patch_size=7,
            num_additional_image_tokens=1,
            vision_feature_select_strategy="default",
            image_token="<image>",
            video_token="<video>",
        )
        content = [{"type": "image"}] * len(images) + [{"type": "video"}] * len(clips)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            chat_template=(checkpoint / "chat_template.jinja").read_text(),
            add_generation_prompt=True,
            tokenize=False,
        )
        if images:
            slots = VideoLlavaProcessor.replace_image_token(named, {"pixel_values": self.images}, 0)
            rendered = rendered.replace("<image>", slots)
        if clips:
            slots = VideoLlavaProcessor.replace_video_token(
                named, {"pixel_values_videos": self.videos}, 0
            )
            rendered = rendered.replace("<video>", slots)
        self.ids = torch.tensor([tokenizer(rendered)["input_ids"]])

    @property
    def inputs(self):
        given = {"input_ids": self.ids}
        if self.images is not None:
            given["pixel_values"] = torch.from_numpy(self.images)
        if self.videos is not None:
            given["pixel_values_videos"] = torch.from_numpy(self.videos)
        return given

    @torch.inference_mode()
    def features(self):
        """Of every picture and clip, (tokens, hidden) each, in the order of the prompt."""
        each = []
        if self.images is not None:
            made = self.model.model.get_image_features(torch.from_numpy(self.images))
            each += [rows.numpy() for rows in made.pooler_output]
        for clip in self.videos if self.videos is not None else ():
            made = self.model.model.get_video_features(torch.from_numpy(clip[None]))
            each.append(made.pooler_output.flatten(0, 1).numpy())
        return each

    @torch.inference_mode()
    def answer(self):
        logits = self.model(**self.inputs).logits[0, -1].numpy()
        made = self.model.generate(**self.inputs, max_new_tokens=STEPS, do_sample=False)
        return made[0, self.ids.shape[1] :].tolist(), logits

    @torch.inference_mode()
    def masked(self, budget):
        """Tokens of the unpruned prompt whose dropped visual tokens nobody sees, and what is kept
        of each picture and clip."""
        towers = [(self.model.model.image_tower, image[None], 0) for image in self._all_images()]
        towers += [(self.model.model.video_tower, clip, 1) for clip in self._all_clips()]
        kept, visible_rows = [], []
        for tower, pixels, cls in towers:
            maps = tower(torch.from_numpy(pixels), output_attentions=True).attentions[-2]
            scores = maps[:, :, 0, 1:].double().mean(dim=1).numpy()
            at = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :budget], axis=1)
            kept.append((at + N * np.arange(len(pixels))[:, None]).ravel().tolist())
            rows = np.zeros((len(pixels), N + cls), dtype=bool)
            np.put_along_axis(rows, at + cls, True, axis=1)
            visible_rows.append(rows.ravel())
        ids = self.ids[0]
        slots = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        visible = (~slots).long()
        visible[slots] = torch.from_numpy(np.concatenate(visible_rows)).long()
        embeds = self.model.get_input_embeddings()(ids)
        embeds[slots] = torch.from_numpy(np.concatenate(self.features()))
        embeds, positions = embeds[None], (visible.cumsum(0) - 1).clamp(min=0)[None]
        tokens = []
        for _ in range(STEPS):
            states = self.model.model.language_model(
                inputs_embeds=embeds, attention_mask=visible[None], position_ids=positions
            ).last_hidden_state
            tokens.append(int(self.model.lm_head(states[0, -1]).argmax()))
            following = self.model.get_input_embeddings()(torch.tensor([tokens[-1:]]))
            embeds = torch.cat([embeds, following], dim=1)
            visible = torch.cat([visible, torch.ones(1, dtype=torch.long)])
            positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
        return tokens, kept

    def _all_images(self):
        return () if self.images is None else self.images

    def _all_clips(self):
        return () if self.videos is None else self.videos


def pictures(count):
    return [
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (50 + seed, 70, 3), dtype=np.uint8)
        )
        for seed in range(count)
    ]


def clips(count):
    """As many clips of just the frames that are taken."""
    made = [numbered(FRAMES + number, (50, 70))[:FRAMES] for number in range(count)]
    return [[Image.fromarray(frame) for frame in frames] for frames in made]


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_without_pruning_all_is_as_in_transformers(video_whole, video_llava, model, shown):
    images, videos = pictures(shown[0]), clips(shown[1])
    theirs = Theirs(video_llava, model, images, videos)
    vlm = VLM.load(video_whole)
    viewer, prompter = vlm.parts.viewer, vlm.parts.prompter
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    prepared = viewer.prepare([*images, *videos], vlm.budget, kinds)
    ids = prompter.encode(QUESTION, {"image": len(images), "video": len(videos)})
    assert prompter.in_order(ids, kinds) == list(range(len(kinds)))
    ids = prompter.place(ids, [one.ids for one in prepared])
    assert ids.tolist() == theirs.ids[0].tolist()
    for ours, pixels in zip(prepared, [*theirs._all_images(), *theirs._all_clips()], strict=True):
        np.testing.assert_allclose(
            ours.pixel_values, pixels.reshape(ours.pixel_values.shape), atol=1e-5
        )
    features = [viewer.encode(one, cached=False) for one in prepared]
    for ours, expected in zip(features, theirs.features(), strict=True):
        np.testing.assert_allclose(ours.inputs_embeds, expected, atol=1e-4)
    tokens, logits = theirs.answer()
    np.testing.assert_allclose(
        vlm.parts.decoder.sequence().prefill(prompter.segments(ids, features)), logits, atol=1e-4
    )
    for engine in ENGINES:
        answer = VLM.load(video_whole, decoder=engine).generate(
            QUESTION, images, videos=videos, sampling=GREEDY
        )
        assert answer.token_ids == tokens[: len(answer.token_ids)]
        total = N * shown[0] + FRAMES * (N + 1) * shown[1]
        assert answer.visual_tokens == {"before": total, "after": total}


@pytest.mark.parametrize("budget", [BUDGET, 2])
@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_pruned_it_is_as_where_the_others_are_masked(
    video_pruned, video_llava, model, shown, budget
):
    images, videos = pictures(shown[0]), clips(shown[1])
    theirs = Theirs(video_llava, model, images, videos)
    tokens, kept = theirs.masked(budget)
    for engine in ENGINES:
        answer = VLM.load(video_pruned, decoder=engine).generate(
            QUESTION, images, videos=videos, budget=budget, sampling=GREEDY
        )
        assert answer.kept_indices == kept
        assert answer.tokens_per_picture == [budget] * shown[0] + [FRAMES * budget] * shown[1]
        assert answer.token_ids == tokens[: len(answer.token_ids)]


def test_turns_and_places(video_pruned):
    vlm = VLM.load(video_pruned)
    (image, other), (clip,) = pictures(2), clips(1)
    few = Sampling(max_new_tokens=4)
    # Where they are given says nothing: the template puts pictures first.
    parts = [
        {"type": "video", "video": clip},
        {"type": "text", "text": QUESTION},
        {"type": "image", "image": image},
    ]
    mixed = vlm.generate(QUESTION, [image], videos=[clip], sampling=few)
    assert (
        vlm.generate(messages=[{"role": "user", "content": parts}], sampling=few).token_ids
        == mixed.token_ids
    )
    assert [len(indices) for indices in mixed.kept_indices] == [BUDGET, FRAMES * BUDGET]
    # Spelt out they stand where they are written.
    placed = vlm.generate("a <video> b <image> c", [image], videos=[clip], sampling=few)
    assert [len(indices) for indices in placed.kept_indices] == [FRAMES * BUDGET, BUDGET]
    assert placed.kept_indices == mixed.kept_indices[::-1]
    chat = vlm.chat()
    first = chat.ask(QUESTION, videos=[clip], sampling=few)
    second = chat.ask("and here?", [image, other], sampling=few)
    assert second.prompt_tokens["cached"] > FRAMES * BUDGET
    again = vlm.chat()
    again.ask(QUESTION, videos=[clip], sampling=few)
    assert again.ask("and here?", [image, other], sampling=few).token_ids == second.token_ids
    messages = [
        {"role": "user", "content": [parts[0], {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": first.text.strip()},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image},
                {"type": "image", "image": other},
                {"type": "text", "text": "and here?"},
            ],
        },
    ]
    assert vlm.generate(messages=messages, sampling=few).token_ids == second.token_ids
    for prompt, given in (("<image> what?", ([], [clip])), ("<video> <video>", ([image], [clip]))):
        with pytest.raises(PocketVLMError, match="the prompt has"):
            vlm.generate(prompt, given[0], videos=given[1])


def test_features_of_both_are_kept_apart(video_pruned, tmp_path):
    (image,), (clip,) = pictures(1), clips(1)
    few = Sampling(max_new_tokens=3)
    first = VLM.load(video_pruned, feature_cache=tmp_path).generate(
        QUESTION, [image], videos=[clip], sampling=few
    )
    assert len(list(tmp_path.glob("*.features.safetensors"))) == 2
    assert len({path.name[:32] for path in tmp_path.glob("*.features.safetensors")}) == 2
    again = VLM.load(video_pruned, feature_cache=tmp_path).generate(
        QUESTION, [image], videos=[clip], sampling=few
    )
    assert (again.token_ids, again.kept_indices) == (first.token_ids, first.kept_indices)


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def test_the_commands_take_both(video_pruned, video_llava, tmp_path):
    (image,) = pictures(1)
    image.save(tmp_path / "photo.png")
    clip = write_clip(tmp_path / "clip.mkv", numbered(9, (50, 70)))
    shown = ["--image", tmp_path / "photo.png", "--video", clip]
    ran = invoke("run", video_pruned, *shown, "--prompt", QUESTION, "--max-new-tokens", 3, "--json")
    assert json.loads(ran.stdout)["tokens_per_picture"] == [BUDGET, FRAMES * BUDGET]
    script = f"/video {clip}\n/image {tmp_path / 'photo.png'}\n{QUESTION}\n"
    chatted = invoke("chat", video_pruned, "--max-new-tokens", 3, "--json", stdin=script)
    assert json.loads(chatted.stdout)["token_ids"] == json.loads(ran.stdout)["token_ids"]
    overlay = ["--image", tmp_path / "photo.png", "--overlay", tmp_path / "kept.png", "--json"]
    drawn = invoke("inspect", video_pruned, *overlay)
    assert json.loads(drawn.stdout)["kept_indices"] == json.loads(ran.stdout)["kept_indices"][0]
    seen = invoke("inspect", video_pruned).stdout
    assert "vision (image) k=9 fp32 (default)" in seen
    assert "with pictures: passed" in seen
    verified = invoke("verify", video_pruned, "--json")
    assert "onnx/image_encoder.onnx" in json.loads(verified.stdout)["graphs"]
    rows = [
        {"image": "photo.png", "question": "what?", "answers": ["red"]},
        {"video": "clip.mkv", "question": "what?", "answers": ["red"]},
        {"image": "photo.png", "video": "clip.mkv", "question": "what?", "answers": ["red"]},
    ]
    (tmp_path / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = invoke(
        "evaluate", video_pruned, "--data", tmp_path / "set.jsonl", "--answers",
        tmp_path / "a.jsonl", "--threads", 1, "--json", tmp_path / "out.json", "--budget", "9,3",
        "--report", tmp_path / "page.html",
    )  # fmt: skip
    assert asked.exit_code == 0, asked.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["pictures"], figures["clips"]) == (1, 1)
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()[1:]]
    assert {(row["line"], row["budget"]): row["visual_tokens"] for row in answers} == {
        (1, 9): 9, (1, 3): 3, (2, 9): 72, (2, 3): 24, (3, 9): 81, (3, 3): 27,
    }  # fmt: skip
    profiled = invoke(
        "profile", video_pruned, *shown, "--threads", 1, "--repeat", 1, "--warmup", 0,
        "--new-tokens", 2, "--json", "--report", tmp_path / "profile.html",
    )  # fmt: skip
    assert profiled.exit_code == 0, profiled.output
    row = json.loads(profiled.stdout)["results"][0]
    assert (row["pictures"], row["clips"], row["tiles"]) == (1, 1, 1 + FRAMES)
    assert (tmp_path / "profile.html").read_text().count("data:image/jpeg") == 2


def test_what_lies_in_the_folder_says_so(video_pruned):
    artifact = Artifact.open(video_pruned)
    manifest = artifact.manifest
    assert media_read(manifest) == ("video", "image")
    assert manifest.media["image"].image_token_id != manifest.decoder.image_token_id
    assert list(open_layouts(artifact)) == ["video", "image"]
    using = json.loads((video_pruned / "using.json").read_text())
    (also,) = using["also"]
    assert (also["medium"], also["visual_tokens"], also["patches"]) == ("picture", BUDGET, N)
    assert also["graph"]["inputs"]["pixel_values"] == ["batch", 3, 42, 42]
    assert also["prompt"]["ids"].count(also["image_token_id"]) == 1
    assert "onnx/image_encoder.onnx" in using["weights"]
    assert "## Pictures too" in (video_pruned / "USING.md").read_text()
    card = (video_pruned / "README.md").read_text()
    assert "Still pictures have a vision graph of their own and keep 9 tokens each." in card


def test_an_artifact_of_one_medium_has_no_word_of_others(video_pruned):
    artifact = Artifact.open(video_pruned)
    data = contradicting(artifact.manifest, lambda stated: stated.pop("media"))
    alone = Manifest.from_dict(data)
    assert alone.to_dict() == data
    assert "also" not in facts(Artifact(artifact.root, alone))


def contradicting(manifest, change):
    data = manifest.to_dict()
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["media"].update(audio=d["media"].pop("image")), "damaged"),
        (lambda d: d["media"]["image"].pop("vision"), "damaged"),
        (
            lambda d: d["media"]["image"].update(image_token_id=d["decoder"]["image_token_id"]),
            "same token in their places",
        ),
        (lambda d: d["media"]["image"].update(image_token_id=10**6), "outside the vocabulary"),
        (
            lambda d: d["media"]["image"]["vision"]["graphs"]["9"].update(fp32="onnx/none.onnx"),
            "missing from its files table",
        ),
        (lambda d: d["media"]["image"]["pruning"].update(budgets=[8]), "is not one of"),
    ],
    ids=range(6),
)
def test_a_second_medium_that_contradicts_itself_is_refused(video_pruned, change, reason):
    manifest = Artifact.open(video_pruned).manifest
    with pytest.raises(PocketVLMError, match=reason):
        Manifest.from_dict(contradicting(manifest, change))


def test_a_layout_of_another_medium_is_refused(video_pruned):
    artifact = Artifact.open(video_pruned)
    data = artifact.manifest.to_dict()
    data["media"]["image"]["vision"]["layout"] = dict(data["vision"]["layout"])
    wrong = Artifact(artifact.root, Manifest.from_dict(data))
    with pytest.raises(PocketVLMError, match="states the layout frames for images"):
        open_layouts(wrong)


def test_an_artifact_whose_second_medium_failed_its_check_is_refused(video_pruned):
    manifest = Artifact.open(video_pruned).manifest
    data = manifest.to_dict()
    assert Manifest.from_dict(data).passed
    data["media"]["image"]["parity"]["passed"] = False
    assert not Manifest.from_dict(data).passed


def test_plans_say_what_the_second_tower_costs(video_llava, tmp_path):
    alone = prepare(str(video_llava), tmp_path / "a", ExportOptions())
    both = prepare(str(video_llava), tmp_path / "a", ExportOptions(media=("video", "image")))
    assert "media" not in alone.to_dict()
    stated = both.to_dict()["media"]
    assert list(stated) == ["video", "image"]
    assert stated["image"]["totals"] == {"9": {"1x1": 9}}
    extra = both.to_dict()["bytes"] - alone.to_dict()["bytes"]
    assert extra == stated["image"]["bytes"] > 0
    assert both.disk_bytes() > alone.disk_bytes()
    assert both.footprint().total > alone.footprint().total
    pictures_alone = prepare(str(video_llava), tmp_path / "a", ExportOptions(media=("image",)))
    assert pictures_alone.spec.family.medium == "image"
    assert not pictures_alone.beside
    done = invoke(
        "export", video_llava, "-o", tmp_path / "a", "--media", "video,image", "--dry-run"
    )
    assert "image_encoder.onnx" in done.stdout


def test_media_that_a_checkpoint_does_not_have_are_refused(video_llava, tiny_checkpoint, tmp_path):
    for folder, media, reason in (
        (tiny_checkpoint, "video", "--media video does not apply to llava checkpoints"),
        (tiny_checkpoint, "image,video", "of these pictures are exported"),
        (video_llava, "image,image", "repeated"),
        (video_llava, "audio", "media"),
    ):
        done = invoke("export", folder, "-o", tmp_path / "a", "--media", media, "--dry-run")
        assert done.exit_code in (1, 2)
        assert reason in done.stderr


def test_pictures_and_clips_that_are_prepared_differently_are_refused(make_tiny, tmp_path):
    folder = make_tiny("tiny-video-llava")
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    other = {**stated, "image_mean": [0.1, 0.2, 0.3]}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(other))
    with pytest.raises(PocketVLMError, match="prepares pictures and clips differently"):
        prepare(str(folder), tmp_path / "a", ExportOptions(media=("video", "image")))
    prepare(str(folder), tmp_path / "a", ExportOptions())
    edit_json(folder, image_token_index=10**6)
    with pytest.raises(PocketVLMError, match="vocabulary"):
        prepare(str(folder), tmp_path / "a", ExportOptions(media=("video", "image")))


@pytest.mark.parametrize("layout", ["classic", "flat", "nested"])
def test_each_medium_reads_its_own_tower(layout):
    named = {
        "classic": "image_tower.vision_model.",
        "flat": "image_tower.",
        "nested": "model.image_tower.",
    }[layout]
    image, video = FAMILIES["video_llava"].beside["image"], FAMILIES["video_llava"]
    of_images = f"{named}embeddings.class_embedding"
    of_clips = of_images.replace("image", "video", 1)
    assert image.canonical(of_images) == "vision_tower.embeddings.class_embedding"
    assert image.canonical(of_clips) is video.canonical(of_images) is None
    assert video.canonical(of_clips) == "vision_tower.embeddings.class_embedding"
