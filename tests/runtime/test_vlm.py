"""The whole path from pictures and a question to an answer, against numpy doing the same by
hand."""

import dataclasses
import gc
import io
import weakref

import numpy as np
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact, Limits, PocketVLMError, Sampling
from pocketvlm.decoders import onnx, open_decoder
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.single import tile_steps
from pocketvlm.limits import NOTHING_KEPT
from pocketvlm.media.pictures import PictureLimits, open_picture
from pocketvlm.ort.sessions import open_session
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import PREPROCESSOR, read_manifest, write_artifact, write_manifest
from support.tiny_graphs import CONTEXT, PATCHES, reference_logits, reference_vision


@pytest.fixture
def other(picture):
    return np.ascontiguousarray(255 - picture[::-1])


def by_hand(weights, vlm, prompt, pictures, budget, steps):
    """Greedy token ids and kept indices, from the numpy twins of the graphs."""
    preprocess = tile_steps(PREPROCESSOR)
    encoded = [reference_vision(weights, preprocess(open_picture(p)), budget) for p in pictures]
    ids = vlm.parts.prompter.encode(prompt, len(pictures), budget)
    embeddings = weights.embed[ids].astype(np.float64)
    if encoded:
        embeddings[ids == vlm.parts.prompter.image_token_id] = np.concatenate(
            [features for features, _ in encoded]
        )
    tokens = []
    eos = vlm.artifact.manifest.decoder.eos_token_ids
    while len(tokens) < steps and not (tokens and tokens[-1] in eos):
        tokens.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[tokens[-1]]])
    return tokens, [indices.tolist() for _, indices in encoded]


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("budget", [1, 4, 6])
def test_answers_equal_those_computed_by_hand(tmp_path, picture, other, count, budget):
    weights = write_artifact(tmp_path / "a")
    vlm = VLM.load(tmp_path / "a")
    pictures = [picture, other][:count]
    answer = vlm.generate(
        "what is it?", pictures, budget=budget, sampling=Sampling(max_new_tokens=6)
    )
    token_ids, kept = by_hand(weights, vlm, "what is it?", pictures, budget, 6)
    assert answer.token_ids == token_ids
    assert answer.kept_indices == kept
    assert answer.visual_tokens == {"before": PATCHES * count, "after": budget * count}


def test_a_narrowed_answer_equals_that_of_a_graph_exported_at_the_budget(tmp_path, picture):
    write_artifact(tmp_path / "wide", budgets=(PATCHES,))
    write_artifact(tmp_path / "narrow", budgets=(5,))
    wide = VLM.load(tmp_path / "wide").generate(
        "what?", [picture], budget=5, sampling=Sampling(max_new_tokens=8)
    )
    narrow = VLM.load(tmp_path / "narrow").generate(
        "what?", [picture], sampling=Sampling(max_new_tokens=8)
    )
    assert (wide.token_ids, wide.kept_indices) == (narrow.token_ids, narrow.kept_indices)


def test_load_budget_sets_the_default_and_picks_the_graph(artifact_dir, picture):
    kept = {
        budget: VLM.load(artifact_dir, budget=budget)
        .generate("?", [picture], sampling=Sampling(max_new_tokens=1))
        .visual_tokens["after"]
        for budget in (None, 3, 9, 12)
    }
    assert kept == {None: 6, 3: 3, 9: 9, 12: 12}


def test_every_kind_of_picture_source_gives_the_same_answer(vlm, picture, tmp_path):
    image = Image.fromarray(picture)
    image.save(tmp_path / "p.png")
    data = io.BytesIO()
    image.save(data, "PNG")
    sources = [picture, image, tmp_path / "p.png", str(tmp_path / "p.png"), data.getvalue()]
    answers = [
        vlm.generate("what?", [source], sampling=Sampling(max_new_tokens=4)) for source in sources
    ]
    assert len({tuple(answer.token_ids) for answer in answers}) == 1
    assert len({str(answer.kept_indices) for answer in answers}) == 1


def test_pictures_do_not_change_each_other(vlm, picture, other):
    both = vlm.generate("?", [picture, other], sampling=Sampling(max_new_tokens=1)).kept_indices
    assert both == [
        vlm.generate("?", [one], sampling=Sampling(max_new_tokens=1)).kept_indices[0]
        for one in (picture, other)
    ]
    assert both[0] != both[1]


def test_answers_do_not_depend_on_what_was_asked_before(vlm, picture):
    first = vlm.generate("what is it?", [picture], sampling=Sampling(max_new_tokens=8))
    vlm.generate("something else entirely", sampling=Sampling(max_new_tokens=5))
    assert (
        vlm.generate("what is it?", [picture], sampling=Sampling(max_new_tokens=8)).token_ids
        == first.token_ids
    )


def test_a_stream_gives_the_pieces_of_the_answer(vlm, picture):
    stream = vlm.stream("what is it?", [picture], sampling=Sampling(max_new_tokens=12))
    pieces = list(stream)
    answer = vlm.generate("what is it?", [picture], sampling=Sampling(max_new_tokens=12))
    assert "".join(pieces) == stream.answer.text == answer.text
    assert len(pieces) > 1
    assert stream.answer.token_ids == answer.token_ids


def test_timings_add_up(vlm, picture):
    timings = vlm.generate("what is it?", [picture], sampling=Sampling(max_new_tokens=3)).timings_ms
    assert list(timings) == [
        "load",
        "preprocess",
        "vision",
        "embed",
        "prefill",
        "ttft",
        "decode",
        "total",
    ]
    assert all(value > 0 for value in timings.values())
    assert timings["total"] == pytest.approx(timings["ttft"] + timings["decode"])
    assert (
        timings["ttft"]
        >= timings["preprocess"] + timings["vision"] + timings["embed"] + timings["prefill"]
    )


def test_the_end_of_sequence_stops_and_is_not_part_of_the_text(tmp_path):
    write_artifact(tmp_path / "a")
    vlm = VLM.load(tmp_path / "a")
    full = vlm.generate("what?", sampling=Sampling(max_new_tokens=6))
    assert full.finish_reason == "length"
    data = read_manifest(tmp_path / "a")
    data["decoder"]["eos_token_ids"] = [full.token_ids[3]]
    write_manifest(tmp_path / "a", data)
    first = full.token_ids.index(full.token_ids[3])
    stopped = VLM.load(tmp_path / "a").generate("what?", sampling=Sampling(max_new_tokens=6))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == full.token_ids[: first + 1]
    assert stopped.text == vlm.parts.prompter.tokenizer.decode(full.token_ids[:first])


def test_sampling_is_repeatable_by_seed(vlm):
    def sample(seed):
        return vlm.generate(
            "what?", sampling=Sampling(max_new_tokens=12, temperature=100, top_p=0.9, seed=seed)
        ).token_ids

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_a_prompt_that_outgrows_the_context_is_refused_up_front(vlm, picture):
    length = len(vlm.parts.prompter.encode("what?", 1, 6))
    room = CONTEXT - length + 1  # the last token picked is not fed back
    assert len(vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=3)).token_ids) == 3
    vlm.stream("what?", [picture], sampling=Sampling(max_new_tokens=room)).close()
    with pytest.raises(
        PocketVLMError, match=f"{CONTEXT + 1} tokens are more than the model's context of {CONTEXT}"
    ):
        vlm.stream("what?", [picture], sampling=Sampling(max_new_tokens=room + 1))
    with pytest.raises(PocketVLMError, match="context"):
        vlm.stream("word " * 500)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"budget": 0}, "budget 0"),
        ({"budget": 7}, "budget 7 is not served"),
        ({"messages": []}, "messages come with a prompt"),
        ({"prompt": None}, "no prompt and no messages"),
        ({"prompt": None, "messages": []}, "messages is empty"),
        ({"images": "photo.jpg"}, "give a list"),
        ({"images": ["missing.jpg"]}, r"missing\.jpg"),
        ({"prompt": "<image>"}, "for 0 pictures"),
    ],
)
def test_refusals_come_before_any_work(vlm, arguments, reason):
    with pytest.raises(PocketVLMError, match=reason):
        vlm.stream(**{"prompt": "what?", **arguments})


def test_none_is_no_picture(vlm):
    answers = [
        vlm.generate("what?", images, sampling=Sampling(max_new_tokens=3)) for images in (None, [])
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].kept_indices == []


def test_picture_limits_can_be_set(artifact_dir, picture):
    vlm = VLM.load(
        artifact_dir,
        limits=Limits(pictures=PictureLimits(max_pixels=100)),
    )
    with pytest.raises(PocketVLMError, match="pixels"):
        vlm.generate("?", [picture])


def test_two_streams_on_one_model_do_not_mix(vlm):
    alone = [
        vlm.generate(question, sampling=Sampling(max_new_tokens=30)).token_ids
        for question in ("something", "what?")
    ]
    first = vlm.stream("something", sampling=Sampling(max_new_tokens=30))
    next(first)
    second = vlm.stream("what?", sampling=Sampling(max_new_tokens=30))
    next(second)
    list(first)
    assert [first.answer.token_ids, second.answer.token_ids] == alone


@pytest.mark.parametrize("leave", [lambda stream: stream.close(), lambda stream: None])
def test_a_stream_left_early_frees_its_cache(artifact_dir, leave):
    vlm = VLM.load(artifact_dir, limits=NOTHING_KEPT)
    stream = vlm.stream("what?", sampling=Sampling(max_new_tokens=30))
    next(stream)
    assert vlm.cache_bytes > 0
    leave(stream)
    del stream
    gc.collect()
    assert vlm.cache_bytes == 0


def test_a_closed_model_frees_its_decoder_and_answers_no_more(artifact_dir, monkeypatch):
    sessions = []

    def opened(*arguments, **options):
        session = open_session(*arguments, **options)
        sessions.append(weakref.ref(session))
        return session

    monkeypatch.setattr(onnx, "open_session", opened)
    vlm = VLM.load(artifact_dir)
    assert sessions
    assert all(session() is not None for session in sessions)
    chat = vlm.chat()
    chat.ask("what?", sampling=Sampling(max_new_tokens=1))
    expected = vlm.generate("what?", sampling=Sampling(max_new_tokens=10)).token_ids
    stream = vlm.stream("what?", sampling=Sampling(max_new_tokens=10))
    next(stream)
    vlm.close()
    vlm.close()
    for ask in (vlm.generate, vlm.stream, chat.ask, chat.stream):  # a stream refuses at once too
        with pytest.raises(PocketVLMError, match="this model is closed: load the model again"):
            ask("what?")
    assert stream.answer.token_ids == expected  # what is under way ends as it would
    del stream
    gc.collect()
    assert all(session() is None for session in sessions)
    assert vlm.cache_bytes == 0


def test_a_decoder_that_several_share_outlives_each_of_them(artifact_dir):
    artifact = Artifact.open(artifact_dir)
    decoder = open_decoder(artifact)
    one, other = (VLM(artifact, VisionEncoder.open(artifact), decoder) for _ in range(2))
    expected = one.generate("what?", sampling=Sampling(max_new_tokens=4)).token_ids
    one.close()
    assert other.generate("what?", sampling=Sampling(max_new_tokens=4)).token_ids == expected


def test_preprocessing_that_does_not_fit_the_graph_is_refused(artifact_dir):
    config = artifact_dir / "preprocessor_config.json"
    config.write_text(config.read_text().replace("16", "20"))
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match="makes 20x20 pixels, the vision graph reads 16x16"):
        VLM.load(artifact_dir)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "nothing"),
        ("tokenizer_config.json", "[]"),
        ("preprocessor_config.json", "{"),
        ("chat_template.jinja", "{% if %}"),
        ("chat_template.jinja", " " * (5 << 20)),
        ("tokenizer_config.json", "{}" + " " * (5 << 20)),
        ("chat_template.jinja", "\udcff"),
    ],
)
def test_damaged_settings_are_refused_in_one_line(artifact_dir, name, content):
    (artifact_dir / name).write_bytes(content.encode(errors="surrogateescape"))
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(ArtifactError) as refusal:
        VLM.load(artifact_dir)
    assert "\n" not in str(refusal.value)


def test_tiles_of_another_size_than_the_graph_reads_are_the_artifacts_fault(
    vlm, picture, monkeypatch
):
    layout = vlm.parts.viewer.layout
    tiles = layout.cut(open_picture(picture))
    small = dataclasses.replace(tiles, pixel_values=tiles.pixel_values[..., :8])
    monkeypatch.setattr(layout, "cut", lambda _image: small)
    with pytest.raises(ArtifactError, match="makes 16x8 pixels, the vision graph reads 16x16"):
        vlm.generate("what?", [picture])
