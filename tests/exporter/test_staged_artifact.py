"""Whole artifacts whose decoder drops visual tokens between its layers: what they state, how they
answer, and what the gate would not let pass."""

import json
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.artifact import metadata
from pocketvlm.artifact.stages import Stage
from pocketvlm.cli import main
from pocketvlm.decoders import open_decoder, staged
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.verification import ParityError, verify_against

PICTURE = np.random.default_rng(5).integers(0, 256, (50, 60, 3), dtype=np.uint8)
STAGES = (Stage(1, 18, "last-token"), Stage(2, 9, "raters"), Stage(3, 0, "exit"))


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny(PRESETS["tiny-llama"].but(text={"num_hidden_layers": 4}))


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """tiny-llama of four layers without vision-side pruning: 36 tokens, of which the second layer
    reads 18, the third 9 and the fourth none."""
    folder = tmp_path_factory.mktemp("stages") / "artifact"
    arguments = ["export", str(checkpoint), "-o", str(folder), "--pruner", "none"]
    arguments += ["--decoder-stage", "1:18", "--decoder-stage", "2:9:raters"]
    arguments += ["--decoder-stage", "3:0", "--decoder-precision", "fp32,int8,int4"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return folder


def ask(vlm, prompt, *pictures, tokens=3, **options):
    return vlm.generate(
        prompt, images=list(pictures), sampling=Sampling(max_new_tokens=tokens), **options
    )


def test_an_artifact(folder, checkpoint):
    manifest = Artifact.open(folder, check="full").manifest
    assert manifest.decoder.stages == STAGES
    assert list(manifest.decoder.graphs.values()) == [
        f"onnx/decoder_staged{suffix}.onnx" for suffix in ("", "_quantized", "_q4")
    ]
    assert not (folder / "onnx" / "decoder_model_merged.onnx").exists()
    parity = manifest.parity
    assert parity.decoder["kept_equal"]
    assert [stage["kept_equal"] for stage in parity.decoder["stages"]] == [True] * 3
    assert parity.decoder["greedy_equal"] == 16
    assert {*parity.by_precision} == {"int8", "int4"}
    assert 0 < parity.by_precision["int8"]["decoder"]["kept_overlap"] <= 1
    settings = json.loads((folder / "config.json").read_text())["transformers.js_config"]
    assert "decoder_model_merged" not in settings["dtype"]
    properties = {
        item.key: item.value
        for item in onnx.load(folder / "onnx/decoder_staged.onnx").metadata_props
    }
    assert properties[metadata.GRAPH] == "decoder_staged"
    assert properties[metadata.STAGES] == "1:18:last-token,2:9:raters,3:0:exit"
    assert verify_against(folder, str(checkpoint))["passed"]


def test_what_people_read(folder):
    listing = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    for line in (
        "layers 1..1 of the decoder read 18 tokens per picture, by last-token",
        "layers 2..2 of the decoder read 9 tokens per picture, by raters",
        "layers 3..3 of the decoder read 0 tokens per picture, by exit",
    ):
        assert line in listing
    card = (folder / "README.md").read_text()
    assert "layers from 1 on (the first is 0) read 18 visual tokens per picture" in card
    assert "2410.04417" in card
    assert "read no visual tokens" in card
    using = (folder / "USING.md").read_text()
    assert "layers 1 to 1 keep 18 tokens per picture" in using
    assert "`picture_ids` is 0 for text" in using
    assert "attention_mask" not in using
    assert "visual_scores" not in using
    stated = json.loads((folder / "using.json").read_text())["stages"]
    assert [(each["layer"], each["last"], each["keep"]) for each in stated] == [
        (1, 1, 18),
        (2, 2, 9),
        (3, 3, 0),
    ]


def test_run(folder):
    vlm = VLM.load(folder)
    answer = ask(vlm, "what is it?", PICTURE, tokens=5)
    assert answer.visual_tokens == {"before": 36, "after": 36, "stages": [18, 9, 0]}
    assert ask(vlm, "what is it?").visual_tokens["stages"] == [0, 0, 0]
    two = ask(vlm, "what are they?", PICTURE, PICTURE[:, ::-1])
    assert two.visual_tokens == {"before": 72, "after": 72, "stages": [36, 18, 0]}
    pair = ask(VLM.load(folder, decoder_precision="int8+int4"), "?", PICTURE)
    assert pair.visual_tokens["stages"] == [18, 9, 0]


def test_a_question_in_a_conversation_is_answered_as_if_asked_alone(folder):
    """What a picture's tokens were dropped for was another question: of the cache only what stands
    before is used."""
    vlm = VLM.load(folder)
    chat = vlm.chat()
    sampling = Sampling(max_new_tokens=5)
    first = chat.ask("what is it?", images=[PICTURE], sampling=sampling)
    second = chat.ask("and what colour?", sampling=sampling)
    prompter = vlm.parts.prompter
    before_the_picture = prompter.encode("what is it?", 1).tolist().index(prompter.image_token_id)
    assert 0 < second.prompt_tokens["cached"] <= before_the_picture
    assert second.visual_tokens["stages"] == [18, 9, 0]
    picture = {"type": "image", "image": PICTURE}
    conversation = [
        {"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]},
        *chat.messages[1:3],
    ]
    alone = VLM.load(folder).generate(messages=conversation, sampling=sampling)
    assert alone.prompt_tokens["total"] == second.prompt_tokens["total"]
    assert (alone.prompt_tokens["cached"], alone.token_ids) == (0, second.token_ids)
    assert first.token_ids == ask(vlm, "what is it?", PICTURE, tokens=5).token_ids


def test_text_alone_is_continued(folder):
    chat = VLM.load(folder).chat()
    first = chat.ask("what is it?", sampling=Sampling(max_new_tokens=3))
    second = chat.ask("why?", sampling=Sampling(max_new_tokens=3))
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"] - 1


@pytest.fixture(scope="module")
def given(make_tiny, tmp_path_factory):
    """Behind a vision-side pruner, of standard operators, by scores that are handed in."""
    folder = tmp_path_factory.mktemp("given") / "artifact"
    stages = (Stage(1, 6, "given"),)
    options = ExportOptions(budgets=(18,), pruner="fastervlm", decoder_stages=stages, portable=True)
    report = export(str(make_tiny("tiny-qwen2")), folder, options)
    assert report.manifest.parity.decoder["kept_equal"]
    assert "stages" not in report.manifest.parity.decoder
    return folder


def test_scores_that_are_handed_in_decide(given):
    """And those of text are not read: its tokens have none."""
    artifact = Artifact.open(given)
    sequence = open_decoder(artifact).sequence()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(18, artifact.manifest.decoder.hidden)).astype(np.float32)
    scores = -rng.random(18, dtype=np.float32)
    picture = EmbeddingSegment(features, visual_scores=scores)
    text = TokenSegment(np.array([5, 6, 7]))
    sequence.prefill([text, picture, text])
    (kept,) = sequence.kept_prompt
    best = np.sort(np.argsort(-scores, kind="stable")[:6])
    assert kept.tolist() == [0, 1, 2, *(3 + best), 21, 22, 23]
    assert sequence.dropped == (12,)
    sequence.decode(8)
    assert (sequence.length, sequence.dropped) == (25, (12,))


def test_an_answer_without_scores_is_refused_in_one_line(given):
    with pytest.raises(PocketVLMError, match="scores of a guide, and there is none") as refusal:
        ask(VLM.load(given), "what is it?", PICTURE)
    assert "\n" not in str(refusal.value)
    assert ask(VLM.load(given), "what is it?").visual_tokens["stages"] == [0]
    assert "visual_scores" in (given / "USING.md").read_text()


def test_the_gate_tells_a_span_that_begins_one_token_late(folder, checkpoint, monkeypatch):
    sound = staged.picture_ids
    monkeypatch.setattr(staged, "picture_ids", lambda segments: np.roll(sound(segments), 1))
    with pytest.raises(ParityError, match="kept_equal False"):
        verify_against(folder, str(checkpoint))


def test_the_gate_tells_positions_that_close_the_gap(folder, checkpoint, monkeypatch):
    """An answer whose tokens count on from what is left of the prompt, as contiguous positions
    would."""
    sound = staged.StagedSequence._feed

    def closed(self, inputs_embeds, segments, position_ids):
        return sound(self, inputs_embeds, segments, position_ids - self.dropped[-1])

    monkeypatch.setattr(staged.StagedSequence, "_feed", closed)
    with pytest.raises(ParityError, match="kept_equal True"):
        verify_against(folder, str(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda decoder: decoder.pop("stages"), "carries pocketvlm.graph=decoder_staged"),
        (lambda decoder: decoder["stages"][1].update(keep=5), "carries pocketvlm.stages=1:18"),
        (lambda decoder: decoder["stages"][0].update(by="given"), "carries pocketvlm.stages=1:18"),
        (lambda decoder: decoder["stages"][2].update(layer=4), "begins at no layer of 4"),
        (lambda decoder: decoder["stages"].reverse(), "not in order"),
        (lambda decoder: decoder["stages"][1].update(keep=18), "not in order"),
        (lambda decoder: decoder.update(positions="mrope"), "with mrope positions"),
        (lambda decoder: decoder.update(attention="prompt"), "attention that is not causal"),
        (lambda decoder: decoder["stages"][0].update(layer=0), "is damaged"),
        (lambda decoder: decoder["stages"][0].update(keep=18.0), "is damaged"),
        (lambda decoder: decoder["stages"][0].update(keep=-1), "is damaged"),
        (lambda decoder: decoder["stages"][0].update(by="A way"), "is damaged"),
        (lambda decoder: decoder["stages"][0].pop("by"), "is damaged"),
        (lambda decoder: decoder.update(stages={}), "is damaged"),
        (
            lambda decoder: decoder.update(
                engines=["onnx", "llama.cpp"],
                gguf=decoder["embed"],
                default_precisions={"onnx": "fp32", "llama.cpp": "fp32"},
            ),
            "llama.cpp cannot",
        ),
        (lambda decoder: decoder.update(fastv={"layer": 1, "keep": 2}), "fastv.*export again"),
    ],
)
def test_a_manifest_that_says_otherwise(folder, tmp_path, change, message):
    manifest = json.loads((folder / "pocketvlm.json").read_text())
    change(manifest["decoder"])
    copy = shutil.copytree(folder, tmp_path / "artifact")
    (copy / "pocketvlm.json").write_text(json.dumps(manifest))
    with pytest.raises(PocketVLMError, match=message):
        VLM.load(copy)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (lambda kept: kept[:, :0], "shape"),
        (lambda kept: np.concatenate([kept, kept], axis=1), "shape|ascending"),
        (lambda kept: kept[:, ::-1], "ascending"),
        (lambda kept: kept + 1000, "ascending"),
        (lambda kept: kept[0], "shape"),
    ],
)
def test_a_graph_that_keeps_what_is_not_there_is_refused(folder, monkeypatch, kept, message):
    """Whatever it says of any stage: the sequence is then what it was."""

    class Claiming:
        """An output as another array."""

        def __init__(self, value):
            self._value = value

        def numpy(self):
            return np.ascontiguousarray(kept(self._value.numpy()))

    for stage in range(3):
        sequence = open_decoder(Artifact.open(folder)).sequence()
        text = TokenSegment(np.array([5, 6, 7]))
        sequence.prefill([text])
        name, sound = f"kept_tokens.{stage}", type(sequence)._cache_lengths

        def claimed(self, outputs, n, name=name, sound=sound):
            return sound(self, {**outputs, name: Claiming(outputs[name])}, n)

        monkeypatch.setattr(type(sequence), "_cache_lengths", claimed)
        with pytest.raises(PocketVLMError, match=message):
            sequence.prefill([text])
        monkeypatch.undo()
        assert sequence.length == 3
