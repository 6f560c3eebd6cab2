"""FastV: the selection against numpy in float64, the graph against transformers' own layers, and
whole artifacts."""

import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketvlm_export.graphs.fastv_decoder import kept_tokens

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import FastV
from pocketvlm.cli import main
from pocketvlm.decoders import fastv
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.graphs import FastVDecoderGraph, trace
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification import ParityError, verify_against
from pocketvlm_export.verification.readers import FastVReader, PlainReader

KEEP = 3
PICTURE = np.random.default_rng(5).integers(0, 256, (50, 60, 3), dtype=np.uint8)


@pytest.fixture(
    scope="module", params=[("tiny-llama", 2), ("tiny-qwen2", 1)], ids=["llama", "qwen2"]
)
def traced(request, make_tiny):
    """A decoder of three layers with FastV: plain and fused graph, its model, where it drops, its
    dimensions."""
    preset, layer = request.param
    checkpoint = open_checkpoint(str(make_tiny(PRESETS[preset].but(text={"num_hidden_layers": 3}))))
    spec = checkpoint.spec.decoder
    with quiet_transformers():
        model = checkpoint.family.load_decoder(
            checkpoint.weights, checkpoint.spec, attention="eager"
        )
        graph = FastVDecoderGraph(model, spec, FastV(layer, KEEP))
        plain = trace(graph)
    tidy(plain, graph.output_axes)
    fused = plain.clone()
    fuse(fused, metadata.FASTV_DECODER)
    return plain, fused.clone(), model, layer, spec  # other precisions are made of a copy


def reader(model, layer, spec):
    """Runs a graph token by token; the cache goes from one run to the next."""
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [value.name for value in session.get_outputs()]
    state = {"position": 0, "cache": None}

    def read(embeds, pictures):
        rows, tokens, _ = embeds.shape
        cache = state["cache"] or {
            value.name: np.zeros((rows, spec.kv_heads, 0, spec.head_dim), np.float32)
            for value in session.get_inputs()[3:]
        }
        positions = np.tile(np.arange(state["position"], state["position"] + tokens), (rows, 1))
        feed = {
            "inputs_embeds": embeds,
            "position_ids": positions,
            "picture_ids": np.array(pictures),
            **cache,
        }
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        state["position"] += tokens
        state["cache"] = {
            name.replace("present", "past_key_values"): outputs[name] for name in names[2:]
        }
        return outputs

    return read


def embeddings(spec, tokens, seed=0, rows=1):
    return np.random.default_rng(seed).normal(size=(rows, tokens, spec.hidden)).astype(np.float32)


def layer_in_float64(layer, x, positions, theta):
    """One transformer layer over rows at these positions, from its formulas: (n, hidden) -> that,
    and its map."""
    state = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    heads, groups, d = (
        layer.self_attn.config.num_attention_heads,
        layer.self_attn.num_key_value_groups,
        16,
    )

    def norm(rows, name):
        return (
            rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + 1e-6) * state[f"{name}.weight"]
        )

    def project(rows, name):
        return rows @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    angles = positions[:, None] / theta ** (np.arange(0, d, 2) / d)

    def turn(rows):  # (n, heads, d), each pair of halves by its angle
        left, right = rows[..., : d // 2], rows[..., d // 2 :]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    normed = norm(x, "input_layernorm")
    q, k, v = (project(normed, f"self_attn.{name}_proj").reshape(len(x), -1, d) for name in "qkv")
    q, k, v = turn(q), np.repeat(turn(k), groups, axis=1), np.repeat(v, groups, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
    scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    x = x + project(
        np.einsum("hij,jhd->ihd", weights, v).reshape(len(x), heads * d), "self_attn.o_proj"
    )
    normed = norm(x, "post_attention_layernorm")
    gate, up = project(normed, "mlp.gate_proj"), project(normed, "mlp.up_proj")
    return x + project(gate / (1 + np.exp(-gate)) * up, "mlp.down_proj"), weights


def in_float64(model, embeds, is_visual, at):
    """The logits and the kept tokens of a whole prompt, rows gathered at their original
    positions."""
    x, positions = embeds.astype(np.float64), np.arange(len(embeds))
    theta, weights = model.config.rope_parameters["rope_theta"], np.zeros(0)
    for number, layer in enumerate(model.model.layers):
        if number == at.layer:
            visual = np.flatnonzero(is_visual)
            best = visual[np.argsort(-weights.mean(axis=0)[-1][visual], kind="stable")[: at.keep]]
            positions = np.sort(np.concatenate([np.flatnonzero(~is_visual), best]))
            x = x[positions]
        x, weights = layer_in_float64(layer, x, positions, theta)
    last = (
        x[-1]
        / np.sqrt((x[-1] ** 2).mean() + 1e-6)
        * model.model.norm.weight.detach().double().numpy()
    )
    return model.lm_head.weight.detach().double().numpy() @ last, positions


def test_a_prompt_against_float64(traced):
    plain, fused, model, layer, spec = traced
    embeds = embeddings(spec, 17)
    pictures = np.array([[0, 0, *[1] * 10, 0, 0, 0, 0, 0]])
    logits, kept = in_float64(model, embeds[0], pictures[0] > 0, FastV(layer, KEEP))
    for graph in (plain, fused):
        outputs = reader(graph, layer, spec)(embeds, pictures)
        assert outputs["kept_tokens"][0].tolist() == kept.tolist()
        np.testing.assert_allclose(
            outputs["logits"][0, 0], logits, atol=1e-4 * max(1, np.abs(logits).max())
        )
        assert outputs["present.0.key"].shape[2] == 17
        assert outputs["present.2.key"].shape[2] == 17 - 10 + KEEP


def test_sixteen_tokens_against_the_mask(traced):
    """Token by token against transformers' layers over every token, where dropped ones are hidden
    by the mask."""
    _, fused, model, layer, spec = traced
    embeds, pictures = embeddings(spec, 30, seed=1), np.array([[0] * 3 + [1] * 9 + [0] * 3])
    read, reference = reader(fused, layer, spec), FastVReader(model, FastV(layer, KEEP))
    with torch.inference_mode():
        expected = [reference.prefill(torch.from_numpy(embeds[:, :15]), pictures[0] > 0)]
        expected += [
            reference.step(torch.from_numpy(embeds[:, at : at + 1])) for at in range(15, 30)
        ]
    runs = [read(embeds[:, :15], pictures)]
    assert runs[0]["kept_tokens"][0].tolist() == reference.dropping.kept.tolist()
    runs += [read(embeds[:, at : at + 1], [[0]]) for at in range(15, 30)]
    for ours, theirs in zip(runs, expected, strict=True):
        np.testing.assert_allclose(ours["logits"][0, 0], theirs.numpy(), atol=1e-4)
    assert runs[-1]["present.2.key"].shape[2] == 30 - 9 + KEEP


def test_nothing_to_drop_is_the_plain_decoder(traced):
    """As few visual tokens as are kept, none at all, and text after a past of two lengths."""
    _, fused, model, layer, spec = traced
    for pictures in ([0, 0, 1, 1, 1, 0], [0] * 6, [1, 1, 1, 2, 2, 0]):
        embeds = embeddings(spec, 7, seed=2)
        read, reference = reader(fused, layer, spec), PlainReader(model)
        with torch.inference_mode():
            expected = [
                reference.step(torch.from_numpy(embeds[:, :6])),
                reference.step(torch.from_numpy(embeds[:, 6:])),
            ]
        runs = [read(embeds[:, :6], [pictures]), read(embeds[:, 6:], [[0]])]
        assert runs[0]["kept_tokens"][0].tolist() == list(range(6))
        for ours, theirs in zip(runs, expected, strict=True):
            np.testing.assert_allclose(ours["logits"][0, 0], theirs.numpy(), atol=1e-4)


def test_a_batch_is_its_rows(traced):
    _, fused, _, layer, spec = traced
    embeds, pictures = embeddings(spec, 12, seed=3, rows=2), np.array([[0] + [1] * 8 + [0] * 3] * 2)
    together = reader(fused, layer, spec)(embeds, pictures)
    for row in range(2):
        alone = reader(fused, layer, spec)(embeds[row : row + 1], pictures[row : row + 1])
        assert alone["kept_tokens"][0].tolist() == together["kept_tokens"][row].tolist()
        np.testing.assert_allclose(alone["logits"][0], together["logits"][row], atol=1e-4)


def test_everything_is_fused(traced):
    _, fused, _, _, spec = traced
    kinds = [node.op_type for node in fused.graph]
    assert kinds.count("GroupQueryAttention") == spec.layers
    assert kinds.count("Softmax") == 1  # the row that ranks
    assert {"Loop", "NonZero", "If"}.isdisjoint(kinds)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_what_is_kept(is_visual, keep, random):
    """All text, the last token and the best of the others, ascending; of distinct scores: torch
    leaves ties open."""
    scores = np.array(random.sample(range(1000), len(is_visual)), np.float32)[None] / 1000
    visual = np.flatnonzero(is_visual[:-1])
    expected = set(range(len(is_visual))) - set(visual)
    expected |= set(visual[np.argsort(-scores[0, visual], kind="stable")[:keep]])
    if not visual.size and is_visual[-1]:
        expected = set(range(len(is_visual)))
    result = kept_tokens(torch.from_numpy(scores), torch.tensor([is_visual]), keep)[0].tolist()
    assert result == sorted(expected)


def test_ties_go_to_the_lower_index():
    """As ONNX says of TopK; torch leaves ties open, so what is asked is the traced graph."""

    class Module(torch.nn.Module):
        def forward(self, scores, pictures):
            return kept_tokens(scores, pictures, 4)

    axes = {1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Module().eval(),
        (torch.rand(1, 9), torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0]])),
        dynamo=True,
        opset_version=20,
        input_names=["scores", "pictures"],
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    session = ort.InferenceSession(program.model_proto.SerializeToString())
    pictures = np.array([[0] + [1] * 10 + [0]])
    scores = np.full((1, 12), 0.5, np.float32)
    assert session.run(None, {"scores": scores, "pictures": pictures})[0].tolist() == [
        [0, 1, 2, 3, 4, 11]
    ]
    scores[0, 7] = 0.75
    assert session.run(None, {"scores": scores, "pictures": pictures})[0].tolist() == [
        [0, 1, 2, 3, 7, 11]
    ]


@pytest.fixture(scope="module")
def fastv_export(tiny_checkpoint, tmp_path_factory):
    """tiny-llama without vision-side pruning: 36 tokens, 9 of which the second of two layers
    reads."""
    folder = tmp_path_factory.mktemp("fastv") / "artifact"
    arguments = [
        "export",
        str(tiny_checkpoint),
        "-o",
        str(folder),
        "--pruner",
        "none",
        "--fastv-layer",
        "1",
    ]
    arguments += ["--fastv-keep", "9", "--decoder-precision", "fp32,int8,int4"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return folder


def test_an_artifact(fastv_export, tiny_checkpoint):
    manifest = Artifact.open(fastv_export, check="full").manifest
    assert manifest.decoder.fastv == FastV(layer=1, keep=9)
    assert list(manifest.decoder.graphs.values()) == [
        f"onnx/decoder_fastv{suffix}.onnx" for suffix in ("", "_quantized", "_q4")
    ]
    assert not (fastv_export / "onnx" / "decoder_model_merged.onnx").exists()
    assert manifest.parity.decoder["kept_equal"]
    assert manifest.parity.decoder["greedy_equal"] == 16
    assert {*manifest.parity.by_precision} == {"int8", "int4"}
    assert 0 < manifest.parity.by_precision["int8"]["decoder"]["kept_overlap"] <= 1
    settings = json.loads((fastv_export / "config.json").read_text())["transformers.js_config"]
    assert "decoder_model_merged" not in settings["dtype"]
    properties = {
        item.key: item.value
        for item in onnx.load(fastv_export / "onnx/decoder_fastv.onnx").metadata_props
    }
    assert properties[metadata.GRAPH] == "decoder_fastv"
    assert properties[metadata.FASTV] == "1,9"
    assert verify_against(fastv_export, str(tiny_checkpoint))["passed"]


def test_what_people_are_told(fastv_export):
    listing = CliRunner().invoke(main, ["inspect", str(fastv_export)]).stdout
    assert (
        "fastv      layers 1..1 of the decoder read 9 tokens per picture, original positions"
        in listing
    )
    assert "FastV" in (fastv_export / "README.md").read_text()
    using = (fastv_export / "USING.md").read_text()
    assert "`picture_ids` is 0 for text" in using
    assert "attention_mask" not in using


def test_run(fastv_export):
    vlm = VLM.load(fastv_export)
    answer = vlm.generate("what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=5))
    assert answer.visual_tokens == {"before": 36, "after": 36, "fastv": 9}
    assert (
        vlm.generate("what is it?", sampling=Sampling(max_new_tokens=2)).visual_tokens["fastv"] == 0
    )
    two = vlm.generate(
        "what are they?", images=[PICTURE, PICTURE[:, ::-1]], sampling=Sampling(max_new_tokens=5)
    )
    assert two.visual_tokens == {"before": 72, "after": 72, "fastv": 18}
    pair = VLM.load(fastv_export, decoder_precision="int8+int4").generate(
        "?", images=[PICTURE], sampling=Sampling(max_new_tokens=3)
    )
    assert pair.visual_tokens["fastv"] == 9


def test_a_question_in_a_conversation_is_answered_as_if_asked_alone(fastv_export, tmp_path):
    """What a picture's tokens were dropped for was another question: of the cache only what stands
    before is used."""
    vlm = VLM.load(fastv_export)
    chat = vlm.chat()
    first = chat.ask("what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=5))
    second = chat.ask("and what colour?", sampling=Sampling(max_new_tokens=5))
    before_the_picture = (
        vlm.parts.prompter.encode("what is it?", 1)
        .tolist()
        .index(vlm.parts.prompter.image_token_id)
    )
    assert 0 < second.prompt_tokens["cached"] <= before_the_picture
    assert second.visual_tokens["fastv"] == 9
    picture = {"type": "image", "image": PICTURE}
    conversation = [
        {"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]},
        *chat.messages[1:3],
    ]
    alone = VLM.load(fastv_export).generate(
        messages=conversation, sampling=Sampling(max_new_tokens=5)
    )
    assert alone.prompt_tokens["total"] == second.prompt_tokens["total"]
    assert (alone.prompt_tokens["cached"], alone.token_ids) == (0, second.token_ids)
    assert (
        first.token_ids
        == vlm.generate(
            "what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=5)
        ).token_ids
    )


def test_text_alone_is_continued(fastv_export):
    chat = VLM.load(fastv_export).chat()
    first = chat.ask("what is it?", sampling=Sampling(max_new_tokens=3))
    second = chat.ask("why?", sampling=Sampling(max_new_tokens=3))
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"] - 1


def test_after_a_vision_side_pruner(make_tiny, tmp_path):
    options = ExportOptions(budgets=(18,), fastv=FastV(1, 6), portable=True)
    report = export(str(make_tiny("tiny-qwen2")), tmp_path / "a", options)
    assert report.manifest.parity.decoder["kept_equal"]
    answer = VLM.load(tmp_path / "a").generate(
        "what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=3)
    )
    assert answer.visual_tokens == {"before": 36, "after": 18, "fastv": 6}
    few = VLM.load(tmp_path / "a").generate(
        "what is it?", images=[PICTURE], budget=4, sampling=Sampling(max_new_tokens=3)
    )
    assert few.visual_tokens == {
        "before": 36,
        "after": 4,
        "fastv": 4,
    }  # fewer than are kept: none is dropped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fastv-layer", "1", "--fastv-keep", "9"], "keep 9 is outside 1..8 (at budget 9"),
        (
            ["--pruner", "none", "--fastv-layer", "1", "--fastv-keep", "36"],
            "keep 36 is outside 1..35",
        ),
        (["--fastv-layer", "1", "--fastv-keep", "0"], "keep 0 is outside 1..8"),
        (["--fastv-layer", "0", "--fastv-keep", "4"], "layer 0 is outside 1..1"),
        (["--fastv-layer", "2", "--fastv-keep", "4"], "layer 2 is outside 1..1"),
        (
            ["--fastv-layer", "1", "--fastv-keep", "4", "--decoder", "both"],
            "llama.cpp's cache has one length",
        ),
    ],
    ids=" ".join,
)
def test_refused_up_front(tiny_checkpoint, tmp_path, arguments, message):
    result = CliRunner().invoke(
        main, ["export", str(tiny_checkpoint), "-o", str(tmp_path / "a"), *arguments]
    )
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_one_option_without_the_other(tiny_checkpoint, tmp_path):
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "a"), "--fastv-keep", "4"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "go together" in result.stderr


def test_a_sliding_window(make_tiny, tmp_path):
    checkpoint = str(make_tiny(PRESETS["tiny-mistral"].but(text={"sliding_window": 128})))
    arguments = [
        "export",
        checkpoint,
        "-o",
        str(tmp_path / "a"),
        "--fastv-layer",
        "1",
        "--fastv-keep",
        "4",
        "--dry-run",
    ]
    assert "slides over 128 tokens" in CliRunner().invoke(main, arguments).stderr
    assert CliRunner().invoke(main, [*arguments, "--context", "128"]).exit_code == 0


def test_the_gate_tells_a_span_that_begins_one_token_late(
    fastv_export, tiny_checkpoint, monkeypatch
):
    sound = fastv.picture_ids
    monkeypatch.setattr(fastv, "picture_ids", lambda segments: np.roll(sound(segments), 1))
    with pytest.raises(ParityError, match="kept_equal False"):
        verify_against(fastv_export, str(tiny_checkpoint))


def test_the_gate_tells_positions_that_close_the_gap(fastv_export, tiny_checkpoint, monkeypatch):
    """An answer whose tokens count on from what is left of the prompt, as contiguous positions
    would."""
    sound = fastv.FastVSequence._feed

    def closed(self, inputs_embeds, segments, position_ids):
        return sound(self, inputs_embeds, segments, position_ids - self.dropped)

    monkeypatch.setattr(fastv.FastVSequence, "_feed", closed)
    with pytest.raises(ParityError, match="kept_equal True"):
        verify_against(fastv_export, str(tiny_checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda decoder: decoder.update(fastv=None), "carries pocketvlm.graph=decoder_fastv"),
        (lambda decoder: decoder["fastv"].update(keep=5), "carries pocketvlm.fastv=1,9"),
        (lambda decoder: decoder["fastv"].update(layer=2), "FastV begins at no layer"),
        (lambda decoder: decoder.update(positions="mrope"), "promised with mrope positions"),
        (lambda decoder: decoder["fastv"].update(layer=0), "is damaged"),
        (lambda decoder: decoder["fastv"].update(keep=2.0), "is damaged"),
        (
            lambda decoder: decoder.update(engines=["onnx", "llama.cpp"], gguf=decoder["embed"]),
            "FastV is promised",
        ),
    ],
    ids=[
        "not stated",
        "another number",
        "no such layer",
        "positions",
        "layer 0",
        "a fraction",
        "llama.cpp",
    ],
)
def test_a_manifest_that_says_otherwise(fastv_export, tmp_path, change, message):
    manifest = json.loads((fastv_export / "pocketvlm.json").read_text())
    change(manifest["decoder"])
    folder = shutil.copytree(fastv_export, tmp_path / "artifact")
    (folder / "pocketvlm.json").write_text(json.dumps(manifest))
    with pytest.raises(PocketVLMError, match=message):
        VLM.load(folder)
