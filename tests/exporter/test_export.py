"""Whole exports: each decoder family, weight layout and element type, and what lies in the
published folder."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.artifact import metadata
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.build import build_decoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.packaging import sidecars
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.decoder_reference import (
    PictureReference,
    decoder_reference,
    prompt_ids,
)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("tiny-mistral", {"layout": "flat", "dtype": "bfloat16"}),
        ("tiny-qwen3", {"dtype": "bfloat16"}),
        ("tiny-qwen2", {"layout": "nested", "dtype": "float16", "shard_bytes": 100_000}),
        ("tiny-dinov2", {"layout": "flat"}),
    ],
)
def test_families_layouts_and_types(make_tiny, tmp_path, preset, options):
    report = export(
        str(make_tiny(preset, **options)), tmp_path / "artifact", ExportOptions(budgets=(4,))
    )
    parity = report.manifest.parity
    assert parity.passed
    assert parity.vision["kept_equal"]
    assert parity.vision["max_abs"] <= 1e-4 * parity.vision["max_reference"]
    assert parity.decoder["greedy_equal"] == 16
    answer = VLM.load(tmp_path / "artifact").generate(
        "what is it?",
        images=[np.full((50, 60, 3), 90, dtype=np.uint8)],
        sampling=Sampling(max_new_tokens=4),
    )
    assert answer.visual_tokens["after"] == 4


def test_published_files(tiny_export):
    names = {
        path.relative_to(tiny_export).as_posix()
        for path in tiny_export.rglob("*")
        if path.is_file()
    }
    graphs = {"vision_encoder", "vision_encoder.k18", "embed_tokens", "decoder_model_merged"}
    graphs |= {
        "vision_encoder_fp16",
        "vision_encoder_fp16.k18",
        "embed_tokens_fp16",
        "decoder_model_merged_fp16",
    }
    sidecars = (
        "README.md USING.md using.json config.json generation_config.json "
        "preprocessor_config.json processor_config.json"
    )
    texts = {
        *sidecars.split(),
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "pocketvlm.json",
        "selftest/image.json",
        "selftest/image-0.png",
    }
    assert names == {f"onnx/{name}.onnx" for name in graphs} | texts
    assert set(Artifact.open(tiny_export, check="full").manifest.files) == names - {
        "pocketvlm.json",
        "README.md",
    }


def test_what_other_clients_read(tiny_export):
    processor = json.loads((tiny_export / "processor_config.json").read_text())
    assert processor["vision_feature_select_strategy"] == "full"
    assert processor["num_additional_image_tokens"] == 9 - 36
    assert (
        json.loads((tiny_export / "preprocessor_config.json").read_text())["processor_class"]
        == "LlavaProcessor"
    )
    settings = json.loads((tiny_export / "config.json").read_text())["transformers.js_config"]
    assert settings["dtype"] == {
        "vision_encoder": "fp32",
        "embed_tokens": "fp32",
        "decoder_model_merged": "fp32",
    }
    template = json.loads((tiny_export / "tokenizer_config.json").read_text())["chat_template"]
    assert template == (tiny_export / "chat_template.jinja").read_text()
    card = (tiny_export / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    assert "9 of 36 visual tokens" in card


def test_special_tokens_that_only_the_older_file_names(tiny_checkpoint, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(tiny_checkpoint, source)
    target.mkdir()
    config = json.loads((source / "tokenizer_config.json").read_text())
    bos = config.pop("bos_token")
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "special_tokens_map.json").write_text(json.dumps({"bos_token": bos}))
    expected = AutoTokenizer.from_pretrained(source).bos_token
    sidecars.write_tokenizer(source, target, "{{ messages }}")
    assert json.loads((target / "tokenizer_config.json").read_text()).get("bos_token") == expected


def test_every_graph_is_stamped_and_says_nothing_of_this_machine(tiny_export, tiny_checkpoint):
    artifact_id = Artifact.open(tiny_export).manifest.artifact_id
    for path in (tiny_export / "onnx").glob("*.onnx"):
        properties = {item.key: item.value for item in onnx.load(path).metadata_props}
        assert properties[metadata.ARTIFACT_ID] == artifact_id
        assert (metadata.BUDGET in properties) == path.name.startswith("vision")
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert str(tiny_checkpoint.parent).encode() not in content


def test_graphs_load_at_opset_20_without_custom_operators(tiny_checkpoint, tmp_path):
    integers = {"vision_precisions": ("fp32", "int8"), "decoder_precisions": ("fp32", "int8")}
    export(
        str(tiny_checkpoint),
        tmp_path / "artifact",
        ExportOptions(budgets=(9,), portable=True, **integers),
    )
    for path in (tmp_path / "artifact" / "onnx").glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]


def test_vision_graphs_alone_are_portable(tiny_checkpoint, tmp_path):
    options = ExportOptions("fastervlm", budgets=(9,), portable_vision=True)
    export(str(tiny_checkpoint), tmp_path / "artifact", options)
    domains = {
        name: {item.domain for item in onnx.load(tmp_path / f"artifact/onnx/{name}").opset_import}
        for name in ("vision_encoder.onnx", "decoder_model_merged.onnx")
    }
    assert domains["vision_encoder.onnx"] == {""}
    assert "com.microsoft" in domains["decoder_model_merged.onnx"]


def test_half_precision_halves_the_file_and_keeps_its_types(tiny_export):
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        full, half = (tiny_export / "onnx" / f"{name}{suffix}.onnx" for suffix in ("", "_fp16"))
        assert half.stat().st_size < 0.7 * full.stat().st_size
        types = [[x.type for x in ort.InferenceSession(path).get_inputs()] for path in (full, half)]
        assert types[0] == types[1]


def test_precision_that_was_not_asked_for_is_not_published(tiny_checkpoint, tmp_path):
    arguments = [
        "export",
        str(tiny_checkpoint),
        "-o",
        str(tmp_path / "a"),
        "--budget",
        "9",
        "--json",
    ]
    result = CliRunner().invoke(main, [*arguments, "--decoder-precision", "fp16"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["parity"]["decoder"]["passed"]
    assert "onnx/decoder_model_merged_fp16.onnx" in report["files"]
    assert not {"onnx/decoder_model_merged.onnx", "onnx/embed_tokens.onnx"} & set(report["files"])
    assert list(Artifact.open(tmp_path / "a", check="full").manifest.decoder.graphs) == ["fp16"]


def test_decoder_takes_a_batch_with_padding(tiny_export):
    """Two sequences of different length, the shorter padded on the left, give what each gives
    alone."""
    session = ort.InferenceSession(tiny_export / "onnx" / "decoder_model_merged.onnx")
    random = np.random.default_rng(0)
    long, short = (random.normal(size=(1, n, 64)).astype(np.float32) for n in (7, 4))

    def run(embeds, mask, positions):
        past = {
            x.name: np.zeros((len(embeds), 2, 0, 16), np.float32) for x in session.get_inputs()[3:]
        }
        feed = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, **past}
        return session.run(["logits"], feed)[0]

    alone = [
        run(x, np.ones(x.shape[:2], np.int64), np.arange(x.shape[1])[None]) for x in (long, short)
    ]
    padded = np.concatenate([np.zeros((1, 3, 64), np.float32), short], axis=1)
    mask = np.array([[1] * 7, [0] * 3 + [1] * 4])
    positions = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 2, 3]])
    together = run(np.concatenate([long, padded]), mask, positions)
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


def test_sliding_window(make_tiny, tmp_path):
    """A Mistral window shorter than the prompt: the graph's mask has it too, in prefill and in
    decode."""
    checkpoint = open_checkpoint(
        str(make_tiny(PRESETS["tiny-mistral"].but(text={"sliding_window": 8})))
    )
    plan = make_plan(checkpoint, ExportOptions(budgets=(9,)))
    (tmp_path / "onnx").mkdir()
    features = np.random.default_rng(1).normal(size=(9, 64)).astype(np.float32)
    with quiet_transformers():
        build_decoder(plan, tmp_path, lambda _: None)
        reference = decoder_reference(
            checkpoint, "what is in the picture?", PictureReference(features), 6
        )
        table = checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec).weight.numpy()
        ids = prompt_ids(checkpoint, "what is in the picture?", 9)
    session = ort.InferenceSession(tmp_path / plan.decoder["fp32"])
    names = [x.name for x in session.get_inputs()[3:]]
    past = [np.zeros((1, 1, 0, 32), np.float32)] * len(names)
    embeds = table[ids][None]
    embeds[0, ids == checkpoint.spec.image_token_id] = features
    length = 0
    for expected, token in zip(reference.logits, reference.token_ids, strict=True):
        total = length + embeds.shape[1]
        feed = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(length, total)[None],
        }
        logits, *past = session.run(None, feed | dict(zip(names, past, strict=True)))
        np.testing.assert_allclose(logits[0, -1], expected, atol=1e-4)
        length, embeds = total, table[[token]][None]
