"""The decoder graph with stages as ONNX Runtime runs it, plain and fused, token by token."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from make_checkpoint import PRESETS
from pocketvlm.artifact import metadata
from pocketvlm.artifact.stages import Stage
from pocketvlm_export.decoder_stages import named
from pocketvlm_export.graphs import StagedDecoderGraph, trace
from pocketvlm_export.graphs.staged_decoder import going_on
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.masked_reader import MaskedReader
from pocketvlm_export.verification.readers import PlainReader
from support.staged import embeddings, in_float64

LAYERS = 4
WAYS = {"tiny-llama": "1:6:given 2:4:raters 3:3", "tiny-qwen2": "1:3"}


class Traced:
    """A decoder of four layers with stages: plain and fused graph, and its model."""

    def __init__(self, folder, way):
        checkpoint = open_checkpoint(str(folder))
        self.spec = checkpoint.spec.decoder
        self.stages = [named(Stage.parse(each)) for each in way.split()]
        with quiet_transformers():
            self.model = checkpoint.family.load_decoder(
                checkpoint.weights, checkpoint.spec, attention="eager"
            )
            graph = StagedDecoderGraph(self.model, self.spec, self.stages)
            self.plain = trace(graph)
        tidy(self.plain, graph.output_axes)
        fused = self.plain.clone()
        fuse(fused, metadata.STAGED_DECODER, full=True)
        self.fused = fused.clone()  # other precisions are made of a copy

    @property
    def lengths(self):
        """Of each layer, the stages before it."""
        return [sum(s.layer <= layer for s in self.stages) for layer in range(LAYERS)]


@pytest.fixture(scope="module", params=WAYS)
def traced(request, make_tiny):
    preset = PRESETS[request.param].but(text={"num_hidden_layers": LAYERS})
    return Traced(make_tiny(preset), WAYS[request.param])


class Reader:
    """Runs a graph token by token; the cache goes from one run to the next."""

    def __init__(self, model, spec):
        self.session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
        self.names = [value.name for value in self.session.get_outputs()]
        inputs = [value.name for value in self.session.get_inputs()]
        self.pasts = [name for name in inputs if name.startswith("past")]
        self.reads_scores = "visual_scores" in inputs
        self.spec, self.position, self.cache = spec, 0, None

    def __call__(self, embeds, pictures, scores=None):
        rows, tokens, _ = embeds.shape
        nothing = np.zeros((rows, self.spec.kv_heads, 0, self.spec.head_dim), np.float32)
        feed = {
            "inputs_embeds": embeds,
            "position_ids": np.tile(self.position + np.arange(tokens), (rows, 1)),
            "picture_ids": np.array(pictures),
            **(self.cache or dict.fromkeys(self.pasts, nothing)),
        }
        if self.reads_scores:
            feed["visual_scores"] = (
                np.zeros((rows, tokens), np.float32) if scores is None else scores
            )
        outputs = dict(zip(self.names, self.session.run(None, feed), strict=True))
        self.position += tokens
        self.cache = {
            name: outputs[name.replace("past_key_values", "present")] for name in self.pasts
        }
        return outputs


def scores_of(pictures, seed=0):
    return np.random.default_rng(seed).random(np.shape(pictures)).astype(np.float32)


def test_a_prompt_against_float64(traced):
    embeds, pictures = embeddings(traced.spec, 17), np.array([[0, 0, *[1] * 10, 0, 0, 0, 0, 0]])
    scores = scores_of(pictures)
    expected, left = in_float64(traced.model, embeds[0], pictures[0] > 0, traced.stages, scores[0])
    for graph in (traced.plain, traced.fused):
        outputs = Reader(graph, traced.spec)(embeds, pictures, scores)
        kept = [outputs[f"kept_tokens.{number}"][0].tolist() for number in range(len(left))]
        assert kept == [each.tolist() for each in left]
        largest = max(1, np.abs(expected).max())
        np.testing.assert_allclose(outputs["logits"][0, 0], expected, atol=1e-4 * largest)
        by_stage = [17, *map(len, left)]
        held = [outputs[f"present.{layer}.key"].shape[2] for layer in range(LAYERS)]
        assert held == [by_stage[before] for before in traced.lengths]


def test_eight_tokens_against_the_mask(traced):
    """Token by token against transformers' layers over every token, where dropped ones are hidden
    by the mask."""
    embeds = embeddings(traced.spec, 23, seed=1)
    pictures = np.array([[0] * 3 + [1] * 9 + [0] * 3])
    scores = scores_of(pictures, seed=1)
    read = Reader(traced.fused, traced.spec)
    reference = MaskedReader(traced.model, traced.stages, scores[0, pictures[0] > 0])
    with torch.inference_mode():
        expected = [reference.prefill(torch.from_numpy(embeds[:, :15]), pictures[0] > 0)]
        expected += [
            reference.step(torch.from_numpy(embeds[:, at : at + 1])) for at in range(15, 23)
        ]
    runs = [read(embeds[:, :15], pictures, scores)]
    for number, dropping in enumerate(reference.dropping):
        assert runs[0][f"kept_tokens.{number}"][0].tolist() == dropping.kept.tolist()
    runs += [read(embeds[:, at : at + 1], [[0]]) for at in range(15, 23)]
    for ours, theirs in zip(runs, expected, strict=True):
        np.testing.assert_allclose(ours["logits"][0, 0], theirs.numpy(), atol=1e-4)
    assert runs[-1][f"present.{LAYERS - 1}.key"].shape[2] == 23 - 9 + traced.stages[-1].keep


def test_nothing_to_drop_is_the_plain_decoder(traced):
    """As few visual tokens as are kept, none at all, and text after a past of several lengths."""
    for pictures in ([0, 0, 1, 1, 1, 0], [0] * 6, [1, 1, 1, 2, 2, 0]):
        embeds = embeddings(traced.spec, 7, seed=2)
        read, reference = Reader(traced.fused, traced.spec), PlainReader(traced.model)
        with torch.inference_mode():
            expected = [
                reference.step(torch.from_numpy(embeds[:, :6])),
                reference.step(torch.from_numpy(embeds[:, 6:])),
            ]
        runs = [read(embeds[:, :6], [pictures]), read(embeds[:, 6:], [[0]])]
        for number in range(len(traced.stages)):
            assert runs[0][f"kept_tokens.{number}"][0].tolist() == list(range(6))
        for ours, theirs in zip(runs, expected, strict=True):
            np.testing.assert_allclose(ours["logits"][0, 0], theirs.numpy(), atol=1e-4)


def test_a_batch_is_its_rows(traced):
    embeds = embeddings(traced.spec, 12, seed=3, rows=2)
    pictures = np.array([[0] + [1] * 8 + [0] * 3] * 2)
    scores = scores_of(pictures)
    together = Reader(traced.fused, traced.spec)(embeds, pictures, scores)
    for row in range(2):
        rows = slice(row, row + 1)
        alone = Reader(traced.fused, traced.spec)(embeds[rows], pictures[rows], scores[rows])
        for number in range(len(traced.stages)):
            kept = f"kept_tokens.{number}"
            assert alone[kept][0].tolist() == together[kept][row].tolist()
        np.testing.assert_allclose(alone["logits"][0], together["logits"][row], atol=1e-4)


def test_everything_is_fused(traced):
    kinds = [node.op_type for node in traced.fused.graph]
    assert kinds.count("GroupQueryAttention") == LAYERS
    # The rows that rank, and one to choose raters by.
    ways = [stage.by for stage in traced.stages]
    ranking = ways.count("last-token") + ways.count("raters") + ("raters" in ways)
    assert kinds.count("Softmax") == ranking
    assert {"Loop", "NonZero", "If"}.isdisjoint(kinds)


def test_axes_are_named_by_the_stages_before_them(traced):
    inputs = {value.name: value.shape for value in traced.fused.graph.inputs}
    names = {str(inputs[f"past_key_values.{layer}.key"][2]) for layer in range(LAYERS)}
    assert names == {
        "past_sequence_length",
        *(f"past_sequence_length_{number + 1}" for number in range(len(traced.stages))),
    }


def test_ties_go_to_the_lower_index():
    """As ONNX says of TopK; torch leaves ties open, so what is asked is the traced graph."""

    class Module(torch.nn.Module):
        def forward(self, scores, pictures):
            return going_on(scores, pictures, 4 * pictures.amax(dim=1))

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
