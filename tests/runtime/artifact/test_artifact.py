"""Artifacts: a sound one opens, and each way of being damaged or hostile is refused in one line."""

import errno
import json
import os
import time

import jsonschema
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from pocketvlm import VLM, Artifact, PocketVLMError
from pocketvlm.artifact import MANIFEST_NAME, Manifest, integrity
from pocketvlm.artifact.integrity import files_named
from pocketvlm.artifact.manifest import json_schema
from pocketvlm.decoders import open_decoder
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.cases import sweep
from support.tiny_artifact import read_manifest, write_artifact, write_manifest


def refuse(root, match, check="auto"):
    with pytest.raises(PocketVLMError, match=match) as refusal:
        Artifact.open(root, check)
    assert "\n" not in str(refusal.value)


def test_a_manifest_survives_the_round_trip(artifact_dir):
    data = read_manifest(artifact_dir)
    manifest = Manifest.from_dict(data)
    assert Manifest.from_json(manifest.to_json()) == manifest
    jsonschema.Draft7Validator.check_schema(json_schema())
    jsonschema.validate(manifest.to_dict(), json_schema())
    assert list(manifest.to_dict())[:2] == ["schema_version", "artifact_id"]


def test_what_most_manifests_say_by_leaving_it_out_is_not_written(artifact_dir):
    data = read_manifest(artifact_dir)
    assert "first_position" not in Manifest.from_dict(data).to_dict()["decoder"]
    data["decoder"]["first_position"] = 1
    manifest = Manifest.from_dict(data)
    assert manifest.to_dict()["decoder"]["first_position"] == manifest.decoder.first_position == 1


def test_later_fields_and_minor_versions_are_accepted(artifact_dir):
    data = read_manifest(artifact_dir)
    data["schema_version"] = "2.7"
    data["stages"] = [{"layer": 2}]
    data["decoder"]["speculative"] = {"q8_0": {"file": "gguf/draft-q8_0.gguf"}}
    write_manifest(artifact_dir, data)
    assert Artifact.open(artifact_dir).manifest.schema_version == "2.7"


@pytest.mark.parametrize("version", ["1.0", "3.0", "0.9", "", None, 2.0, "two"])
def test_an_unknown_schema_version_is_refused(artifact_dir, version):
    write_manifest(artifact_dir, read_manifest(artifact_dir) | {"schema_version": version})
    refuse(artifact_dir, "schema version .* export again")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("vision", "default_precision"), "int8"),
        (("decoder", "default_engine"), "llama.cpp"),
        (("decoder", "default_precisions"), {}),
        (("decoder", "default_precisions"), {"onnx": "int8"}),
        (("decoder", "tables"), {}),
        (("artifact_id",), "short"),
        (("pruning", "budgets"), []),
        (("pruning", "budgets"), [6, 0]),
        (("pruning", "default_budget"), 7),
        (("pruning", "tokens_before"), 3),
        (("vision", "graphs"), {"6": {"fp32": "onnx/elsewhere.onnx"}}),
        (("vision", "graphs"), {"0": {}}),
        (("vision", "graphs"), {"6": {}}),
        (("vision", "image_size"), [16]),
        (("vision", "constants"), ["image_newline"]),
        (("vision", "constants"), {"image_newline": "tokenizer.json"}),
        (("vision", "constants"), {"image_newline": {"file": "elsewhere.bin", "shape": [8]}}),
        (("vision", "constants"), {"image_newline": {"file": "tokenizer.json", "shape": [8]}}),
        (("vision", "constants"), {"image_newline": {"file": "tokenizer.json", "shape": []}}),
        (("vision", "constants"), {"image_newline": {"file": "tokenizer.json", "shape": [8.0]}}),
        (("vision", "constants"), {"image_newline": {"file": "tokenizer.json", "shape": [-8]}}),
        (("vision", "constants"), {"../x": {"file": "tokenizer.json", "shape": [8]}}),
        (("vision", "extras"), "deepstack_0"),
        (("vision", "extras"), ["image_features"]),
        (("vision", "extras"), ["deepstack_0", "deepstack_0"]),
        (("vision", "extras"), ["Deep stack"]),
        (("decoder", "extras"), "deepstack_0"),
        (("decoder", "extras"), ["deepstack_0"]),
        (("decoder", "extras"), ["inputs_embeds"]),
        (("decoder", "layers"), "two"),
        (("decoder", "layers"), 10**9),
        (("decoder", "graphs"), {}),
        (("decoder", "engines"), ["onnx", "llama.cpp"]),
        (("decoder", "gguf"), {"q8_0": "gguf/elsewhere.gguf"}),
        (("decoder", "gguf"), {"q8_0": {"file": "tokenizer.json"}}),
        (("decoder", "image_token_id"), 1 << 20),
        (("decoder",), None),
        (("generation",), None),
        (("generation",), {"processors": [1.1]}),
        (("generation",), {"sampling": {"A b": 1}}),
        (("parity",), {}),
        (("files",), {}),
        (("requires",), {"onnxruntime": ">=99"}),
        (("requires",), {"onnxruntime": "recent"}),
    ],
)
def test_a_damaged_manifest_is_refused(artifact_dir, path, value):
    data = read_manifest(artifact_dir)
    *parents, last = path
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    write_manifest(artifact_dir, data, recount=False)
    refuse(artifact_dir, r"damaged|contradicts|onnxruntime")


def test_means_of_what_was_dropped_are_no_part_of_larger_budgets(artifact_dir):
    data = read_manifest(artifact_dir)
    data["pruning"]["merge_dropped"] = True
    write_manifest(artifact_dir, data)
    refuse(artifact_dir, "merged, and smaller budgets are promised to be part of larger ones")
    data["pruning"]["nested"] = False
    write_manifest(artifact_dir, data)
    assert Artifact.open(artifact_dir).manifest.pruning.merge_dropped


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("decoder", "layers", 2.0),
        ("decoder", "image_token_id", 5.0),
        ("decoder", "eos_token_ids", [1.0]),
        ("pruning", "budgets", [6.0, 12]),
        ("pruning", "default_budget", 6.0),
        ("vision", "image_size", [16.0, 16.0]),
        ("files", "tokenizer.json", {"bytes": 2.0, "sha256": "0" * 64}),
    ],
)
def test_integers_written_as_fractions_are_refused(artifact_dir, section, key, value):
    """JSON Schema takes 2.0 for an integer."""
    data = read_manifest(artifact_dir)
    data[section][key] = value
    write_manifest(artifact_dir, data, recount=False)
    refuse(artifact_dir, "expected an integer without a decimal point")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": "2.0"}']
)
def test_a_manifest_that_is_none_is_refused(artifact_dir, text):
    (artifact_dir / MANIFEST_NAME).write_text(text)
    refuse(artifact_dir, MANIFEST_NAME)


def test_the_order_of_json_keys_chooses_nothing(artifact_dir):
    data = read_manifest(artifact_dir)
    for graphs in data["vision"]["graphs"].values():
        graphs["fp16"] = graphs["fp32"]
    data["decoder"]["graphs"]["fp16"] = data["decoder"]["graphs"]["fp32"]
    data["decoder"]["tables"]["fp16"] = "fp32"
    data["vision"]["default_precision"] = "fp16"
    data["decoder"]["default_precisions"] = {"onnx": "fp16"}
    for turned in (data, _turned(data)):
        write_manifest(artifact_dir, turned)
        artifact = Artifact.open(artifact_dir)
        assert VisionEncoder.open(artifact).precision == "fp16"
        assert open_decoder(artifact).name == "onnx fp16"
        assert [str(case) for case in sweep(artifact.manifest, budgets=[6], threads=[1])] == [
            "6 tokens, onnx fp16, vision fp16, 1 thread"
        ]


def _turned(value):
    """The same JSON with the keys of all its objects in reverse order."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(value)}
    return value


def test_no_folder_and_no_manifest(tmp_path):
    refuse(tmp_path / "nowhere", "no such folder")
    refuse(tmp_path, "has no pocketvlm.json")


def test_a_rejected_export_is_refused_but_can_be_looked_at(artifact_dir):
    data = read_manifest(artifact_dir)
    data["parity"]["passed"] = False
    write_manifest(artifact_dir, data)
    refuse(artifact_dir, "parity")
    assert not Artifact.open(artifact_dir, allow_rejected=True).manifest.parity.passed


def test_a_missing_file(artifact_dir):
    (artifact_dir / "tokenizer.json").unlink()
    refuse(artifact_dir, r"tokenizer\.json .*cannot be read")


@pytest.mark.parametrize("check", ["auto", "full", "sizes"])
def test_a_truncated_file(artifact_dir, check):
    graph = artifact_dir / "onnx" / "decoder_model_merged.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    refuse(artifact_dir, r"decoder_model_merged\.onnx has \d+ bytes, the manifest says", check)


def test_an_altered_file_is_caught_at_the_first_load_and_after_a_later_change(
    artifact_dir, checksum_cache
):
    template = artifact_dir / "chat_template.jinja"
    original = template.read_bytes()
    template.write_bytes(original[::-1])
    refuse(artifact_dir, r"chat_template\.jinja was altered")
    Artifact.open(artifact_dir, "sizes")
    template.write_bytes(original)
    Artifact.open(artifact_dir)
    template.write_bytes(original[::-1])
    os.utime(template, ns=(1, 1))  # certain to differ from what was remembered
    refuse(artifact_dir, r"chat_template\.jinja was altered")


@pytest.mark.skipif(os.name != "posix", reason="Windows does not tell when a file was changed")
@pytest.mark.parametrize("how", ["in place", "replaced", "at once"])
def test_a_change_is_seen_although_its_time_is_put_back(artifact_dir, how):
    template = artifact_dir / "chat_template.jinja"
    original, before = template.read_bytes(), template.stat()
    Artifact.open(artifact_dir)
    if how == "replaced":
        template.rename(template.with_suffix(".old"))
    if how != "at once":
        time.sleep(0.02)
    template.write_bytes(original[::-1])
    os.utime(template, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = template.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    refuse(artifact_dir, r"chat_template\.jinja was altered")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_remembered_checksums_are_private_and_others_words_are_not_taken(
    artifact_dir, checksum_cache, mask
):
    before = os.umask(mask)
    try:
        Artifact.open(artifact_dir)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (checksum_cache.parent, checksum_cache)]
    assert modes == [0o700, 0o600]

    template = artifact_dir / "chat_template.jinja"
    rows, sound = json.loads(checksum_cache.read_text()), template.read_bytes()
    template.write_bytes(sound[::-1])
    info = template.stat()
    state = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
    rows[str(template)] = [*state, rows[str(template)][-1]]
    checksum_cache.write_text(json.dumps(rows))
    Artifact.open(artifact_dir)  # written by oneself
    for mode in (0o620, 0o602, 0o666):
        checksum_cache.chmod(mode)
        refuse(artifact_dir, r"chat_template\.jinja was altered")
    checksum_cache.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(checksum_cache, 12345, -1)
        refuse(artifact_dir, r"chat_template\.jinja was altered")


@pytest.mark.parametrize("row", [None, 1, "x", [], [1], {"a": 1}, [None] * 6, [[]] * 6])
def test_damaged_rows_are_no_checksums(artifact_dir, checksum_cache, row):
    Artifact.open(artifact_dir)
    rows = json.loads(checksum_cache.read_text())
    checksum_cache.write_text(json.dumps(dict.fromkeys(rows, row)))
    Artifact.open(artifact_dir)
    assert json.loads(checksum_cache.read_text()) == rows


def test_checksums_are_read_once_and_never_remembered_inside(
    artifact_dir, checksum_cache, monkeypatch
):
    before = sorted(artifact_dir.rglob("*"))
    Artifact.open(artifact_dir)
    assert sorted(artifact_dir.rglob("*")) == before
    files = read_manifest(artifact_dir)["files"]
    assert len(json.loads(checksum_cache.read_text())) == len(files)

    read = []
    monkeypatch.setattr(integrity, "sha256_of", lambda path: read.append(path) or "0" * 64)
    Artifact.open(artifact_dir)
    assert read == []
    refuse(artifact_dir, "altered", "full")
    assert len(read) == 1


def test_a_damaged_or_unwritable_cache_is_no_reason_to_refuse(artifact_dir, checksum_cache):
    checksum_cache.parent.mkdir(parents=True)
    checksum_cache.write_text("not json")
    Artifact.open(artifact_dir)
    checksum_cache.unlink()
    checksum_cache.parent.rmdir()
    checksum_cache.parent.write_text("a file where the folder should be")
    Artifact.open(artifact_dir)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "onnx/../../secret",
        "onnx\\graph",
        "C:graph",
        ".hidden",
        "a//b",
        "",
        "a\nb",
        "onnx/.",
    ],
)
def test_names_that_are_not_plain_are_refused(artifact_dir, name):
    (artifact_dir.parent / "secret").write_text("s")
    data = read_manifest(artifact_dir)
    data["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_manifest(artifact_dir, data, recount=False)
    refuse(artifact_dir, "plain relative names")


def test_links_may_not_leave_the_folder(artifact_dir):
    target = artifact_dir / "tokenizer.json"
    inside = target.rename(artifact_dir / "real.json")
    target.symlink_to("real.json")
    Artifact.open(artifact_dir, "full")
    target.unlink()
    target.symlink_to(inside.rename(artifact_dir.parent / "real.json"))
    refuse(artifact_dir, r"leaves the folder.* \(cp -rL\), .*local_dir=")
    target.unlink()
    target.symlink_to("tokenizer.json")
    refuse(artifact_dir, "cannot be read")


def test_a_linked_folder_and_a_linked_manifest_may_not_leave_either(artifact_dir):
    (artifact_dir / "onnx").rename(artifact_dir.parent / "onnx")
    (artifact_dir / "onnx").symlink_to(artifact_dir.parent / "onnx")
    refuse(artifact_dir, "leaves the folder")
    (artifact_dir / MANIFEST_NAME).rename(artifact_dir.parent / MANIFEST_NAME)
    (artifact_dir / MANIFEST_NAME).symlink_to(artifact_dir.parent / MANIFEST_NAME)
    refuse(artifact_dir, "leaves the folder")


def test_a_file_that_nobody_may_read_is_refused_in_a_line(artifact_dir, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(integrity, "sha256_of", denied)
    with pytest.raises(PocketVLMError, match=r"cannot be read \(Permission denied\)"):
        Artifact.open(artifact_dir, "full")


def test_a_pipe_in_place_of_a_file_is_refused_without_reading(artifact_dir):
    (artifact_dir / "tokenizer.json").unlink()
    os.mkfifo(artifact_dir / "tokenizer.json")
    refuse(artifact_dir, "not a regular file")


def test_weights_exchanged_at_equal_size_are_caught_by_their_checksum(artifact_dir, tmp_path):
    write_artifact(tmp_path / "other", seed=1)
    data_files = [
        root / "onnx" / "embed_tokens.onnx_data" for root in (artifact_dir, tmp_path / "other")
    ]
    for root, file, fill in zip(
        (artifact_dir, tmp_path / "other"), data_files, (b"a", b"b"), strict=True
    ):
        file.write_bytes(fill * 4096)
        write_manifest(root, read_manifest(root))
        Artifact.open(root)  # remembered, so that "auto" has something to be misled by
    data_files[1].replace(data_files[0])
    Artifact.open(artifact_dir, "sizes")  # as its description says: nothing was read
    for check in ("auto", "full"):
        refuse(artifact_dir, r"embed_tokens\.onnx_data was altered", check)


@pytest.mark.parametrize(
    "name", ["vision_encoder.onnx", "embed_tokens.onnx", "decoder_model_merged.onnx"]
)
def test_graphs_of_two_artifacts_do_not_mix(artifact_dir, tmp_path, name):
    write_artifact(tmp_path / "other", seed=1, budgets=(6, 12))
    (artifact_dir / "onnx" / name).write_bytes((tmp_path / "other" / "onnx" / name).read_bytes())
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match=f"{name} carries pocketvlm.artifact_id=.*mixed"):
        VLM.load(artifact_dir)


def test_graphs_of_two_budgets_or_roles_do_not_mix(artifact_dir):
    graph = artifact_dir / "onnx" / "vision_encoder.onnx"
    graph.write_bytes((artifact_dir / "onnx" / "vision_encoder.k12.onnx").read_bytes())
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match="budget=12, the manifest says 6"):
        VLM.load(artifact_dir)
    graph.write_bytes((artifact_dir / "onnx" / "embed_tokens.onnx").read_bytes())
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(
        PocketVLMError, match="graph=embed_tokens, the manifest says vision_encoder"
    ):
        VLM.load(artifact_dir)


def test_a_file_that_is_no_graph_is_refused(artifact_dir):
    (artifact_dir / "onnx" / "embed_tokens.onnx").write_bytes(b"not a protobuf at all")
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match=r"embed_tokens\.onnx cannot be read as a graph"):
        VLM.load(artifact_dir)


@pytest.mark.parametrize("location", ["../../secret", "{root}/secret", "link"])
def test_a_graph_may_not_read_weights_from_outside_the_folder(artifact_dir, location):
    secret = artifact_dir.parent / "secret"
    secret.write_bytes(bytes(1 << 16))
    (artifact_dir / "onnx" / "link").symlink_to(secret)
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    set_external_data(
        weights, location.format(root=artifact_dir.parent), length=len(weights.raw_data)
    )
    weights.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    data = read_manifest(artifact_dir)
    write_manifest(artifact_dir, data)
    del data["files"]["onnx/link"]  # the graph alone knows of the link
    write_manifest(artifact_dir, data, recount=False)
    with pytest.raises(
        PocketVLMError, match=r"embed_tokens\.onnx cannot be opened .*External data path"
    ):
        VLM.load(artifact_dir)


def test_only_listed_names_have_a_path(artifact_dir):
    artifact = Artifact.open(artifact_dir)
    assert artifact.path("tokenizer.json") == artifact_dir / "tokenizer.json"
    with pytest.raises(PocketVLMError, match="holds no"):
        artifact.path(MANIFEST_NAME)


def test_a_graph_names_the_files_that_its_weights_lie_in(tmp_path):
    (tmp_path / "onnx").mkdir()
    graph = tmp_path / "onnx" / "decoder.onnx"
    values = onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, [1], b"\0" * 4, raw=True)
    set_external_data(values, "decoder.onnx_data", 0, 4)
    values.ClearField("raw_data")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [values])), graph)
    names = ["onnx/vision.onnx_data", "onnx/decoder.onnx_data", "onnx/decoder.onnx"]
    assert files_named(tmp_path, "onnx/decoder.onnx", names) == ["onnx/decoder.onnx_data"]
    assert files_named(tmp_path, "onnx/decoder.onnx", []) == []
    with pytest.raises(PocketVLMError):
        files_named(tmp_path, "../decoder.onnx", names)
