"""Several precisions in one artifact: what is written, what is recorded of each, and which one
answers."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Sampling
from pocketvlm.artifact import metadata
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import TokenSegment
from pocketvlm.decoders.onnx import OnnxDecoder
from pocketvlm.ort.sessions import open_session
from pocketvlm.ort.settings import DEFAULT_SETTINGS
from pocketvlm.ort.signatures import cache_names
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes.dynamic_int8 import quantize_rows
from pocketvlm_export.planning import make_plan
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS
from pocketvlm_export.verification import ParityError

PICTURE = np.random.default_rng(0).integers(0, 256, (42, 42, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def artifact(make_tiny, tmp_path_factory):
    """tiny-qwen2, whose table is tied, in integers alone; read only."""
    folder = tmp_path_factory.mktemp("integers") / "artifact"
    options = ExportOptions(
        budgets=(9, 18),
        vision_precisions=("int8",),
        decoder_precisions=("int4", "int8", "int4_b128"),
    )
    export(str(make_tiny("tiny-qwen2")), folder, options)
    return Artifact.open(folder, check="full")


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda precision: precision.name)
def test_an_entry_names_a_pass_and_bounds(precision):
    assert PRECISIONS[precision.table].shares_head or "embed" in PRECISIONS[precision.table].parts
    exact = precision.name == GATE_PRECISION
    assert (precision.weights_pass == "") is exact
    if not exact:
        made = precision.make_pass()
        assert isinstance(made, ir.passes.InPlacePass)
        assert getattr(made, "block", None) == precision.block
        assert (0 < precision.logits_cosine < 1) is ("decoder" in precision.parts)
        assert (0 < precision.table_cosine < 1) is ("embed" in precision.parts)
        assert (precision.vision is not None) is ("vision" in precision.parts)


@pytest.mark.parametrize("kind", GGUF_TYPES.values(), ids=lambda kind: kind.name)
def test_an_entry_has_llama_cpps_name(kind):
    gguf = pytest.importorskip("gguf")
    assert kind.file_type in gguf.LlamaFileType.__members__
    assert kind.written is None or getattr(torch, kind.written).itemsize * 8 == kind.bits
    assert (kind.logits_cosine == 1) is (kind.name == GATE_GGUF_TYPE)
    llama_cpp = pytest.importorskip("llama_cpp")
    assert getattr(llama_cpp, f"LLAMA_FTYPE_{kind.file_type}") == gguf.LlamaFileType[kind.file_type]


def test_files_of_each_precision(artifact):
    names = {path.name for path in (artifact.root / "onnx").iterdir() if path.suffix == ".onnx"}
    assert names == {
        "vision_encoder_quantized.onnx",
        "vision_encoder_quantized.k18.onnx",
        "decoder_model_merged_q4.onnx",
        "decoder_model_merged_quantized.onnx",
        "decoder_model_merged_q4_b128.onnx",
        "embed_tokens_q4.onnx",
        "embed_tokens_quantized.onnx",
        "embed_tokens_q4_b128.onnx",
    }
    decoder = artifact.manifest.decoder
    assert list(decoder.graphs) == ["int4", "int8", "int4_b128"]
    assert decoder.tables == {"int4": "int4", "int8": "int8", "int4_b128": "int4_b128"}
    settings = json.loads((artifact.root / "config.json").read_text())["transformers.js_config"][
        "dtype"
    ]
    assert settings == {"vision_encoder": "q8", "embed_tokens": "q4", "decoder_model_merged": "q4"}


def test_what_each_loses_is_recorded(artifact):
    parity = artifact.manifest.parity
    assert parity.vision["kept_equal"]  # of the float32 graphs, which were built for this alone
    assert parity.decoder["greedy_equal"] == 16
    assert set(parity.by_precision) == {"int8", "int4", "int4_b128"}
    vision = parity.by_precision["int8"]["vision"]
    assert 0.99 <= vision["cosine"] < 1
    assert 0 < vision["kept_overlap"] <= vision["kept_overlap_mean"] <= 1
    files = artifact.manifest.files
    assert vision["bytes"] == sum(
        entry.bytes for name, entry in files.items() if "vision_encoder" in name
    )
    decoders = {name: figures["decoder"] for name, figures in parity.by_precision.items()}
    lost = [decoders[name]["kl_mean"] for name in ("int8", "int4")]
    assert 0 < lost[0] < lost[1]
    assert decoders["int8"]["argmax_agreement"] >= decoders["int4"]["argmax_agreement"]
    assert decoders["int4"]["bytes"] < decoders["int8"]["bytes"]
    tables = {name: figures["embed"]["cosine"] for name, figures in parity.by_precision.items()}
    assert 0.9 < tables["int4_b128"] <= tables["int4"] < tables["int8"] < 1


def test_a_table_that_no_decoder_reads_by_default_is_measured_too(make_tiny, tmp_path, monkeypatch):
    """The float32 decoder is held against the checkpoint with the table of float32."""

    def turned(table):
        rows, scale = quantize_rows(table)
        return rows, np.where(np.arange(len(scale))[:, None] % 2, scale, -scale)

    monkeypatch.setattr("pocketvlm_export.onnx_passes.dynamic_int8.quantize_rows", turned)
    options = ExportOptions(budgets=(9,), embed_precisions=("int8",))
    with pytest.raises(ParityError, match="int8 embed: cosine"):
        export(str(make_tiny()), tmp_path / "out", options)


@pytest.mark.parametrize(
    ("precision", "limit", "name"),
    [(None, 1, "onnx int4"), (None, 0, "onnx int8+int4"), ("int8", 0, "onnx int8")],
)
def test_the_runtime_takes_the_one_asked_for(artifact, precision, limit, name):
    vlm = VLM.load(
        artifact.root,
        decoder_precision=precision,
        vision_precision="int8",
        budget=5,
        settings=EngineSettings(memory_limit=limit),
    )
    answer = vlm.generate("what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=4))
    assert vlm.decoder == name
    assert answer.visual_tokens["after"] == 5


class GraphByHand:
    """A decoder graph whose cache goes through the caller's hands, with the table of int4."""

    def __init__(self, artifact, precision):
        self.spec = artifact.manifest.decoder

        def opened(files, name, kind):
            settings = DEFAULT_SETTINGS.for_precision(name)
            return open_session(artifact, files[name], kind, settings=settings)

        self.embed = opened(self.spec.embed, "int4", metadata.EMBED_TOKENS)
        self.graph = opened(self.spec.graphs, precision, metadata.DECODER)

    def empty_cache(self):
        empty = np.zeros((1, self.spec.kv_heads, 0, self.spec.head_dim), np.float32)
        return dict.fromkeys(cache_names(range(self.spec.layers)), empty)

    def run(self, ids, cache):
        """The logits of the last id, and the cache after it."""
        (inputs_embeds,) = self.embed.run(None, {"input_ids": np.array([ids])})
        start = next(iter(cache.values())).shape[2]
        feed = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": np.ones((1, start + len(ids)), np.int64),
            "position_ids": np.arange(start, start + len(ids))[None],
        } | {f"past_key_values.{name}": value for name, value in cache.items()}
        outputs = ["logits", *(f"present.{name}" for name in cache)]
        logits, *present = self.graph.run(outputs, feed)
        return logits.reshape(-1, self.spec.vocab)[-1], dict(zip(cache, present, strict=True))


def test_one_precision_reads_and_another_answers(artifact):
    """The second continues from the very cache that the first has left."""
    decoder = OnnxDecoder.open(artifact, precision="int8+int4")
    assert decoder.name == "onnx int8+int4"
    both, prompt = decoder.sequence(), [5, 9, 17, 4]
    reads, answers = (GraphByHand(artifact, name) for name in ("int8", "int4"))
    logits, cache = reads.run(prompt, reads.empty_cache())
    np.testing.assert_array_equal(both.prefill([TokenSegment(np.array(prompt))]), logits)
    logits, cache = answers.run([7], cache)
    np.testing.assert_array_equal(both.decode(7), logits)
    logits, _ = reads.run(prompt, cache)
    np.testing.assert_array_equal(both.prefill([TokenSegment(np.array(prompt))]), logits)
    with pytest.raises(PocketVLMError, match="no precision 'fp32'"):
        open_decoder(artifact, precision="int8+fp32")


def test_a_precision_that_is_not_there(artifact):
    with pytest.raises(
        PocketVLMError, match="no precision 'fp32': expected one of int4, int8, int4_b128"
    ):
        open_decoder(artifact, precision="fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"vision_precisions": ("int4",)},
            "vision precision 'int4' is unknown: choose from fp32, fp16, int8",
        ),
        ({"embed_precisions": ("q8",)}, "embedding precision 'q8' is unknown"),
        ({"decoder_precisions": ("int4", "int4")}, "repeated"),
        (
            {"decoder_precisions": ("int4",), "portable": True},
            "int4 needs ONNX Runtime's own .* from fp32, fp16, int8",
        ),
        (
            {"decoder": "llama.cpp", "decoder_precisions": ("fp16",)},
            "decoder precision fp16 is for ONNX Runtime",
        ),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(PocketVLMError, match=message):
        ExportOptions(**options)


def test_a_table_that_nothing_would_read_is_refused(tiny_checkpoint):
    """llama.cpp has its own; only a question that selects is read by another."""
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    options = {"decoder": "llama.cpp", "embed_precisions": ("fp16",)}
    with pytest.raises(PocketVLMError, match="embedding precision fp16 is for ONNX Runtime"):
        make_plan(checkpoint, ExportOptions("divprune", **options))
    plan = make_plan(checkpoint, ExportOptions("cdpruner", **options))
    assert plan.selector_table == "fp16"
    assert set(plan.embed) - {name for name in plan.embed if plan.embed[name] in plan.extra} == {
        "fp16"
    }


def test_the_plan_counts_a_shared_table_once(make_tiny):
    options = ExportOptions(decoder_precisions=("int4", "int8"))
    tied, apart = (
        make_plan(open_checkpoint(str(make_tiny(name))), options)
        for name in ("tiny-qwen2", "tiny-llama")
    )
    sizes = [
        {precision: plan.sizes()[file] for precision, file in plan.embed.items()}
        for plan in (tied, apart)
    ]
    assert sizes[0]["int4"] < sizes[1]["int4"] < sizes[1]["int8"] == sizes[0]["int8"]


def test_tables_of_their_own_are_counted_too(make_tiny):
    checkpoint = open_checkpoint(str(make_tiny("tiny-qwen2")))
    shared, apart = (
        make_plan(checkpoint, ExportOptions(decoder_precisions=("int4",), shared_tables=sharing))
        for sharing in (True, False)
    )
    assert shared.sizes()[shared.embed["int4"]] < apart.sizes()[apart.embed["int4"]]


def test_tables_that_are_asked_for(make_tiny):
    options = ExportOptions(decoder_precisions=("int8", "int4"), embed_precisions=("fp32", "int4"))
    assert [options.table(name) for name in ("int8", "int4")] == ["fp32", "int4"]
    plan = make_plan(open_checkpoint(str(make_tiny())), options)
    assert plan.embed == {"fp32": "onnx/embed_tokens.onnx", "int4": "onnx/embed_tokens_q4.onnx"}
    assert plan.extra == {"onnx/decoder_model_merged.onnx"}
