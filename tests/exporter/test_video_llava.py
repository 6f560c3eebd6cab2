"""Video-LLaVA end to end: both layouts and both engines, held against transformers' own model and
an own oracle."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration, VideoLlavaProcessor
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.layouts import open_layout
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.families import FAMILIES
from support.clips import numbered, write_clip
from support.gguf_files import needs_llama_cpp
from support.tiny_artifact import write_artifact, write_clip_artifact

BUDGET, N, FRAMES, STEPS = 9, 36, 8, 16
QUESTION = "what is in the picture?"
PAGE = Path(__file__).parents[2] / "docs" / "video.md"


@pytest.fixture(scope="module")
def checkpoint(video_llava):
    return video_llava


@pytest.fixture(scope="module")
def frames():
    return numbered(20, (50, 70))


@pytest.fixture(scope="module")
def clip(tmp_path_factory, frames):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mkv", frames)


@pytest.fixture(scope="module")
def pruned(video_pruned):
    return video_pruned


@pytest.fixture(scope="module")
def whole(video_whole):
    return video_whole


@pytest.fixture(scope="module")
def model(checkpoint):
    return VideoLlavaForConditionalGeneration.from_pretrained(
        checkpoint, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def pixels(checkpoint, frames):
    """What transformers' image processor makes of the frames that Video-LLaVA's own code takes: (8,
    3, H, W)."""
    processor = VideoLlavaImageProcessor.from_pretrained(checkpoint)
    taken = [
        Image.fromarray(frames[number])
        for number in np.linspace(0, len(frames) - 1, FRAMES, dtype=int)
    ]
    return np.stack(processor(taken, return_legacy_image_output=False)["pixel_values"])


def transformers_ids(checkpoint, pixels):
    """The prompt with as many slots as transformers' processor counts; the whole of that class
    needs torchvision."""
    processor = SimpleNamespace(patch_size=7, num_additional_image_tokens=1, video_token="<video>")
    slots = VideoLlavaProcessor.replace_video_token(
        processor, {"pixel_values_videos": pixels[None]}, 0
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    template = (checkpoint / "chat_template.jinja").read_text()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )
    return torch.tensor([tokenizer(text.replace("<video>", slots))["input_ids"]])


def encode(vlm, clip, budget):
    viewer = vlm.parts.viewer
    (prepared,) = viewer.prepare([clip], budget)
    pixels = prepared.pixel_values
    return prepared, pixels, viewer.encode(prepared, cached=False).inputs_embeds


def oracle(model, pixels, budget):
    """FasterVLM on each frame by itself, spelt out over transformers' modules: kept patches and
    features."""
    with torch.inference_mode():
        output = model.model.video_tower(
            torch.from_numpy(pixels),
            output_hidden_states=True,
            output_attentions=True,
            return_dict=True,
        )
        scores = output.attentions[-2][:, :, 0, 1:].double().mean(dim=1).numpy()
        kept = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :budget], axis=1)
        patches = output.hidden_states[-2][:, 1:].numpy()
        rows = np.concatenate(
            [frame[indices] for frame, indices in zip(patches, kept, strict=True)]
        )
        return kept, model.model.multi_modal_projector(torch.from_numpy(rows)).numpy()


def greedy(model, embeds):
    tokens = []
    with torch.inference_mode():
        for _ in range(STEPS):
            logits = model.lm_head(
                model.model.language_model(inputs_embeds=embeds).last_hidden_state[:, -1]
            )
            tokens.append(int(logits.argmax()))
            embeds = torch.cat(
                [embeds, model.get_input_embeddings()(torch.tensor([tokens[-1:]]))], dim=1
            )
    return tokens


def test_frames_are_prepared_as_transformers_does(pruned, clip, pixels):
    result = encode(VLM.load(pruned), clip, BUDGET)[1]
    np.testing.assert_allclose(result, pixels, atol=1e-5)


@pytest.mark.parametrize("size", [(42, 42), (300, 41), (43, 200), (10, 7), (640, 360)])
def test_frames_of_any_size_are_too(pruned, checkpoint, size):
    processor = VideoLlavaImageProcessor.from_pretrained(checkpoint)
    frame = Image.effect_noise(size, 90).convert("RGB")
    expected = processor([frame], return_legacy_image_output=False)["pixel_values"][0]
    result = open_layout(Artifact.open(pruned)).steps(frame)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_without_pruning_all_is_as_in_transformers(whole, checkpoint, clip, pixels, model):
    vlm = VLM.load(whole)
    look, _, features = encode(vlm, clip, N + 1)
    ids = transformers_ids(checkpoint, pixels)
    given = {"input_ids": ids, "pixel_values_videos": torch.from_numpy(pixels)[None]}
    with torch.inference_mode():
        expected = (
            model.model.get_video_features(given["pixel_values_videos"])
            .pooler_output.flatten(0, 1)
            .numpy()
        )
        logits = model(**given).logits[0, -1].numpy()
        tokens = model.generate(
            **given, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False
        )[0, ids.shape[1] :]
    np.testing.assert_allclose(features, expected, atol=1e-4)
    prompter, decoder = vlm.parts.prompter, vlm.parts.decoder
    placed = prompter.place(prompter.encode(QUESTION, 1), [look.ids])
    assert placed.tolist() == ids[0].tolist()
    np.testing.assert_allclose(
        decoder.sequence().prefill(prompter.segments(placed, [features])), logits, atol=1e-4
    )
    answer = vlm.generate(QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=STEPS))
    expected_ids = tokens.tolist()[: len(answer.token_ids)]
    assert answer.token_ids == expected_ids
    assert answer.visual_tokens == {"before": FRAMES * (N + 1), "after": FRAMES * (N + 1)}


@pytest.mark.parametrize("budget", [1, BUDGET])
def test_pruned_clips_are_as_the_oracle_says(pruned, checkpoint, clip, pixels, model, budget):
    vlm = VLM.load(pruned)
    look, _, features = encode(vlm, clip, budget)
    kept, expected = oracle(model, pixels, budget)
    np.testing.assert_array_equal(look.features[0].kept_indices, kept)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    answer = vlm.generate(
        QUESTION, videos=[clip], budget=budget, sampling=Sampling(max_new_tokens=STEPS)
    )
    assert answer.kept_indices == [(kept + N * np.arange(FRAMES)[:, None]).ravel().tolist()]
    assert answer.visual_tokens == {"before": FRAMES * N, "after": FRAMES * budget}
    ids = transformers_ids(checkpoint, pixels)[0]
    text = ids[ids != model.config.video_token_id]
    at = int((ids == model.config.video_token_id).int().argmax())
    embeds = model.get_input_embeddings()(text)
    embeds = torch.cat([embeds[:at], torch.from_numpy(expected), embeds[at:]])[None]
    assert answer.token_ids == greedy(model, embeds)[: len(answer.token_ids)]


@needs_llama_cpp
def test_llama_cpp_answers_as_onnx_runtime_does(pruned, clip):
    answers = [
        VLM.load(pruned, decoder=engine).generate(QUESTION, videos=[clip])
        for engine in ("onnx", "llama.cpp")
    ]
    assert [answer.decoder for answer in answers] == ["onnx fp32", "llama.cpp f32"]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].kept_indices == answers[1].kept_indices


def test_a_clip_stands_where_the_prompt_says(pruned, clip, frames):
    vlm = VLM.load(pruned)
    placed = vlm.generate(f"{QUESTION} <video>", videos=[clip], sampling=Sampling(max_new_tokens=1))
    first = vlm.generate(QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=1))
    assert placed.kept_indices == first.kept_indices
    prompter = vlm.parts.prompter
    assert prompter.encode("a <video> b <video> c", 2).tolist().count(prompter.image_token_id) == 2
    decoded = vlm.generate(QUESTION, videos=[frames], sampling=Sampling(max_new_tokens=4))
    assert (
        decoded.token_ids
        == vlm.generate(QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=4)).token_ids
    )


def refused(call) -> str:
    with pytest.raises(PocketVLMError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_the_model_is_not_shown_is_refused(clip, tmp_path):
    write_artifact(tmp_path / "pictures")
    write_clip_artifact(tmp_path / "clips")
    vlm, pictures = VLM.load(tmp_path / "clips"), VLM.load(tmp_path / "pictures")
    picture = Image.new("RGB", (42, 42))
    assert "about clips, not pictures" in refused(lambda: vlm.generate(QUESTION, [picture]))
    assert "about pictures, not clips" in refused(
        lambda: pictures.generate(QUESTION, videos=[clip])
    )
    assert "give a list of clips" in refused(lambda: vlm.generate(QUESTION, videos=str(clip)))
    assert "write <video>" in refused(lambda: vlm.generate("what is <image>?", videos=[clip]))
    assert "2 <video> for 1 clips" in refused(
        lambda: vlm.generate("<video> <video>", videos=[clip])
    )
    assert "cannot be read" in refused(
        lambda: vlm.generate(QUESTION, videos=[tmp_path / "missing.mp4"])
    )


def test_layouts_that_do_not_go_with_pruning_are_refused(checkpoint, tmp_path):
    for options, reason in (
        (ExportOptions(layout="hf"), "which no method ranks"),
        (ExportOptions(layout="fastervlm", pruner="none"), "is for pruning"),
        (ExportOptions(context=130, budgets=(9,)), "does not hold a picture of 72"),
    ):
        assert reason in refused(
            lambda options=options: export(str(checkpoint), tmp_path / "a", options)
        )


def test_features_of_a_clip_are_kept(pruned, clip, tmp_path):
    vlm = VLM.load(pruned, feature_cache=tmp_path)
    first = vlm.generate(QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=2))
    assert len(list(tmp_path.glob("*.features.safetensors"))) == 1
    again = VLM.load(pruned, feature_cache=tmp_path)
    again.parts.viewer.encoder.encode = None  # would be called for a clip not known
    assert (
        again.generate(QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=2)).token_ids
        == first.token_ids
    )


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def test_the_commands_take_clips(pruned, clip, tmp_path):
    expected = VLM.load(pruned).generate(
        QUESTION, videos=[clip], sampling=Sampling(max_new_tokens=3)
    )
    ran = invoke(
        "run", pruned, "--video", clip, "--prompt", QUESTION, "--max-new-tokens", 3, "--json"
    )
    assert json.loads(ran.stdout)["token_ids"] == expected.token_ids
    script = f"/video {clip}\n{QUESTION}\n/image {clip}\n"
    chatted = invoke("chat", pruned, "--max-new-tokens", 3, "--json", stdin=script)
    answer, error = map(json.loads, chatted.stdout.splitlines())
    assert answer["token_ids"] == expected.token_ids
    assert "clip.mkv" in error["error"]  # a clip is not a picture
    drawn = invoke("inspect", pruned, "--video", clip, "--overlay", tmp_path / "kept.png", "--json")
    assert drawn.exit_code == 0, drawn.output
    assert json.loads(drawn.stdout)["kept_indices"] == expected.kept_indices[0]
    sheet = Image.open(tmp_path / "kept.png")
    assert sheet.width == FRAMES * sheet.height
    assert invoke("inspect", pruned, "--video", clip).exit_code == 2
    assert "36 tokens per frame" in invoke("inspect", pruned).stdout
    assert "8 frames of 42x42" in invoke("inspect", pruned).stdout
    assert "42x42 pixels, 36 tokens per picture" in invoke("inspect", pruned).stdout


def test_the_commands_and_the_program_of_the_page_run(
    checkpoint, pruned, clip, tmp_path, monkeypatch
):
    (tmp_path / "clips").symlink_to(pruned)
    (tmp_path / "both").symlink_to(pruned)
    (tmp_path / "clip.mp4").symlink_to(clip)
    Image.new("RGB", (60, 50), "red").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^pocketvlm (.*)$", PAGE.read_text(), re.M)
    names = [command.split()[0] for command in commands]
    assert names == ["export", "run", "inspect", "export", "run"]
    for command in commands:
        words = shlex.split(
            command.replace("LanguageBind/Video-LLaVA-7B-hf", str(checkpoint)).replace("64", "9")
        )
        done = invoke(*words, *(["--dry-run", "--overwrite"] if words[0] == "export" else []))
        assert done.exit_code == 0, f"{command}\n{done.output}"
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(program)  # from docs/video.md


def test_the_card_and_the_page_for_other_languages_speak_of_clips(pruned, whole):
    card = (pruned / "README.md").read_text()
    assert "video-text-to-text" in card
    assert "--video clip.mp4" in card
    assert "reads 8 frames of a clip, 9 visual tokens per frame: 72 per clip" in card
    assert "photo" not in card
    using = (pruned / "USING.md").read_text()
    assert "floor(i (n - 1) / 7) for i = 0 to 7" in using
    assert "transformers.js_config" not in json.loads((pruned / "config.json").read_text())
    assert Artifact.open(whole).manifest.vision.layout == {
        "name": "frames",
        "frames": 8,
        "cls": True,
    }


def test_verify_knows_by_which_layout_an_artifact_was_exported(checkpoint, whole):
    assert invoke("verify", whole, "--against", checkpoint).exit_code == 0


@pytest.mark.parametrize("layout", ["classic", "flat", "nested"])
def test_the_tower_for_pictures_is_never_read(layout):
    family = FAMILIES["video_llava"]
    named = {
        "classic": "image_tower.vision_model.",
        "flat": "image_tower.",
        "nested": "model.image_tower.",
    }[layout]
    assert family.canonical(f"{named}embeddings.class_embedding") is None
    stored = named.replace("image", "video") + "embeddings.class_embedding"
    assert family.canonical(stored) == "vision_tower.embeddings.class_embedding"
