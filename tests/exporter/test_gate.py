"""The parity gate: broken on purpose it exits 3 and publishes nothing."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from make_checkpoint import PRESETS
from pocketvlm import Artifact, PocketVLMError
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, packaging, pipeline
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import vision_encoder
from pocketvlm_export.pruning import base
from pocketvlm_export.towers.attention import in_heads
from pocketvlm_export.verification import ParityError, verify_against
from support.tiny_artifact import read_manifest, write_artifact, write_manifest


def wrong_layer(monkeypatch):
    monkeypatch.setattr(
        VisionSpec, "score_layer", property(lambda self: self.feature_layers[-1] - 2)
    )


def logits_instead_of_probabilities(monkeypatch):
    def row(block, hidden):
        normed = block.norm1(hidden)
        query = in_heads(block.query(normed[:, :1]), block)
        keys = in_heads(block.key(normed), block)
        return (query @ keys.transpose(-1, -2) * block.scaling)[:, :, 0, 1:]

    monkeypatch.setattr(vision_encoder, "cls_attention", row)


def unsorted_indices(monkeypatch):
    monkeypatch.setattr(
        base, "take_best", lambda scores, k: base.Selection(*reversed(torch.topk(scores, k, dim=1)))
    )


def scores_of_the_wrong_tokens(monkeypatch):
    sound = base.take_best
    monkeypatch.setattr(
        base,
        "take_best",
        lambda scores, k: base.Selection(sound(scores, k).indices, torch.topk(scores, k, dim=1)[0]),
    )


def first_positions(monkeypatch):
    """A decoder that forgets where its past ends."""
    from pocketvlm_export.graphs.decoder import DecoderWithPast

    sound = DecoderWithPast.forward
    monkeypatch.setattr(
        DecoderWithPast,
        "forward",
        lambda self, e, m, p, past: sound(self, e, m, p - p[:, :1], past),
    )


BREAKS = [
    wrong_layer,
    logits_instead_of_probabilities,
    unsorted_indices,
    scores_of_the_wrong_tokens,
    first_positions,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_broken_export_is_not_published(break_it, tiny_checkpoint, tmp_path, monkeypatch):
    break_it(monkeypatch)
    output = str(tmp_path / "out" / "artifact")
    result = CliRunner().invoke(
        main, ["export", str(tiny_checkpoint), "-o", output, "--pruner", "fastervlm"]
    )
    assert result.exit_code == 3, result.stderr
    assert "the graphs differ from the checkpoint" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_can_be_kept(tiny_checkpoint, tmp_path, monkeypatch):
    wrong_layer(monkeypatch)
    kept = tmp_path / "kept"
    arguments = [
        "export",
        str(tiny_checkpoint),
        "-o",
        str(tmp_path / "artifact"),
        "--keep-failed",
        str(kept),
        "--pruner",
        "fastervlm",
    ]
    result = CliRunner().invoke(main, [*arguments, "--vision-precision", "fp16"])
    assert result.exit_code == 3, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    parity = json.loads((kept / "pocketvlm.json").read_text())["parity"]
    assert parity["passed"] is False
    assert parity["vision"]["kept_equal"] is False
    assert (
        kept / "onnx" / "vision_encoder.onnx"
    ).is_file()  # built for the gate alone, and it is what failed
    with pytest.raises(PocketVLMError, match="failed its parity check"):
        Artifact.open(kept)


def test_verify_against_the_source(tiny_checkpoint, tiny_export):
    figures = verify_against(tiny_export, str(tiny_checkpoint))
    assert figures["passed"]
    assert figures["vision"]["max_abs"] < 1e-4
    assert figures["decoder"]["greedy_equal"] == 16
    assert set(figures["by_precision"]) == {"fp16"}


def test_verify_against_another_checkpoint(tiny_export, make_tiny):
    with pytest.raises(ParityError, match="differs from"):
        verify_against(tiny_export, str(make_tiny(seed=1)))
    with pytest.raises(PocketVLMError, match="was not exported from"):
        verify_against(
            tiny_export, str(make_tiny(PRESETS["tiny-llama"].but(text={"hidden_size": 128})))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda manifest: manifest["pruning"].update(method="leastfirst"),
            "pruning method 'leastfirst'",
        ),
        (
            lambda manifest: manifest["decoder"].update(
                graphs={"int3": "onnx/decoder_model_merged.onnx"},
                tables={"int3": "fp32"},
                default_precisions={"onnx": "int3"},
            ),
            "'int3'",
        ),
    ],
)
def test_verify_an_artifact_of_another_exporter(tmp_path, change, message):
    write_artifact(tmp_path / "artifact")
    manifest = read_manifest(tmp_path / "artifact")
    change(manifest)
    write_manifest(tmp_path / "artifact", manifest)
    with pytest.raises(PocketVLMError, match=message):
        verify_against(tmp_path / "artifact", "nobody/opens-this")


@pytest.mark.parametrize(("model", "revision"), [("org/model", "c0ffee"), ("org/fine-tuned", None)])
def test_a_recorded_commit_is_of_one_repository(tmp_path, monkeypatch, model, revision):
    write_artifact(tmp_path / "artifact")
    manifest = read_manifest(tmp_path / "artifact")
    manifest["source"].update(model="org/model", commit="c0ffee")
    write_manifest(tmp_path / "artifact", manifest)
    requests = []

    def opened(*arguments):
        requests.append(arguments)
        raise PocketVLMError("not opened")

    monkeypatch.setattr("pocketvlm_export.verification.open_checkpoint", opened)
    with pytest.raises(PocketVLMError, match="not opened"):
        verify_against(tmp_path / "artifact", model)
    assert requests == [(model, revision)]


def test_the_manifest_is_the_last_file_and_written_once(tiny_checkpoint, tmp_path, monkeypatch):
    """The gate opens a folder without one; what is published lists every other file."""
    written = []

    def watch(module, name):
        original = getattr(module, name)

        def call(*arguments, **options):
            folders = [each for each in arguments if isinstance(each, Path)]
            folders += [each.root for each in arguments if isinstance(each, Artifact)]
            written.append((name, (folders[0] / "pocketvlm.json").exists()))
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    watch(pipeline, "check_parity")
    for name in ("write_using", "write_manifest"):
        watch(packaging, name)
    watch(pipeline, "put_in_place")
    report = pipeline.export(str(tiny_checkpoint), tmp_path / "out", ExportOptions(budgets=(9,)))
    steps = ["check_parity", "write_using", "write_manifest", "put_in_place"]
    assert written == list(zip(steps, [False, False, False, True], strict=True))
    manifest = Artifact.open(tmp_path / "out", check="full").manifest
    assert manifest == report.manifest
    listed = {"pocketvlm.json", "README.md"} | manifest.files.keys()
    assert listed == {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
