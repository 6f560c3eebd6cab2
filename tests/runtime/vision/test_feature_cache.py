"""Features kept between answers: the same ones come back, within bounds, whatever happens to the
files."""

import hashlib
import json
import os
import struct
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import set_external_data
from safetensors import safe_open
from safetensors.numpy import save

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Provider, Sampling
from pocketvlm.decoders import open_decoder
from pocketvlm.files import fresh_name
from pocketvlm.files.flock import try_lock
from pocketvlm.limits import NOTHING_KEPT
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, FeatureLimits, FeatureSource, picture_key
from pocketvlm.vision.features import VisionFeatures
from support.tiny_artifact import (
    read_manifest,
    state_the_id_of,
    write_artifact,
    write_manifest,
)

K, HIDDEN = 6, 8
SIZE = K * (HIDDEN * 4 + 12)
SOURCE = FeatureSource("artifact-k6-fp32", K, HIDDEN, nested=True)


def features(seed):
    rng = np.random.default_rng(seed)
    return VisionFeatures(
        rng.normal(size=(1, K, HIDDEN)).astype(np.float32),
        np.sort(rng.permutation(16)[:K])[None].astype(np.int64),
        rng.normal(size=(1, K)).astype(np.float32),
    )


def assert_same(kept, expected):
    for name in ("image_features", "kept_indices", "kept_scores"):
        left, right = getattr(kept, name), getattr(expected, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_the_key_is_the_content():
    one = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    assert picture_key(one) == picture_key(one.copy())
    assert picture_key(one) != picture_key(one + 1)
    assert picture_key(one.transpose(0, 2, 1)) != picture_key(one)


def test_those_used_longest_ago_go_first():
    cache = FeatureCache(SOURCE, FeatureLimits(memory_bytes=2 * SIZE))
    for number in range(2):
        cache.put(str(number), features(number))
    assert_same(cache.get("0"), features(0))
    cache.put("2", features(2))
    assert cache.get("1") is None
    assert_same(cache.get("0"), features(0))
    assert_same(cache.get("2"), features(2))


def test_nothing_is_kept_beyond_the_bound():
    cache = FeatureCache(SOURCE, FeatureLimits(memory_bytes=SIZE - 1))
    cache.put("a", features(0))
    assert cache.get("a") is None


def test_a_folder_outlives_the_process(tmp_path):
    FeatureCache(SOURCE, folder=tmp_path / "new" / "folder").put("a", features(1))
    kept = FeatureCache(SOURCE, folder=tmp_path / "new" / "folder").get("a")
    assert_same(kept, features(1))
    assert_same(kept.narrow(3), features(1).narrow(3))
    for other in ("artifact-k6-int8", "other-k6-fp32"):
        source = FeatureSource(other, K, HIDDEN, nested=True)
        assert FeatureCache(source, folder=tmp_path / "new" / "folder").get("a") is None


def test_a_file_is_safetensors_with_a_checksum_of_its_tensors(tmp_path):
    expected = features(1)
    FeatureCache(SOURCE, folder=tmp_path).put("a", expected)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{SOURCE.name}-a.features.safetensors"
    with safe_open(path, "np") as file:
        assert set(file.keys()) == {"image_features", "kept_indices", "kept_scores"}
        for name in file.keys():  # noqa: SIM118 - it is not a mapping
            np.testing.assert_array_equal(file.get_tensor(name), getattr(expected, name))
        parts = (expected.image_features, expected.kept_indices, expected.kept_scores)
        content = b"".join(part.tobytes() for part in parts)
        assert file.metadata() == {"sha256": hashlib.sha256(content).hexdigest()}


def packed(header, data):
    """A file in safetensors' format, of a header (an object, or bytes as they are) and what follows
    it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def hostile_files(whole):
    """Files that are none of this picture's features, by what is wrong with them."""
    length = int.from_bytes(whole[:8], "little")
    data, header = whole[8 + length :], json.loads(whole[8 : 8 + length])

    def changed(name, **fields):
        return packed(header | {name: header[name] | fields}, data)

    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    rest = {name: entry for name, entry in header.items() if name != "kept_scores"}
    digest = header["__metadata__"]
    begin, end = header["image_features"]["data_offsets"]
    return {
        "empty": b"",
        "cut": whole[:-1],
        "longer": whole + b"x",
        "another first byte": b"x" + whole[1:],
        "a flipped bit in a tensor": whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:],
        "nothing but an old mark": b"PVLMFEAT1\n",
        "a header of 2^64 - 1 bytes": b"\xff" * 8 + whole[8:],
        "a header of 2^40 bytes": struct.pack("<Q", 1 << 40) + whole[8:],
        "a header longer than the file": struct.pack("<Q", len(whole)) + whole[8:],
        "a header of 0 bytes": struct.pack("<Q", 0) + whole[8:],
        "a header that is not JSON": packed(b"{" * length, data),
        "a header of other JSON": packed(b"[]" + b" " * (length - 2), data),
        "a header beyond what is read": packed({**header, "__metadata__": {"x": "y" * 5000}}, data),
        "overlapping offsets": changed(
            "kept_scores", data_offsets=header["kept_indices"]["data_offsets"][:1] * 2
        ),
        "offsets past the end": changed("kept_scores", data_offsets=[len(data), len(data) + 24]),
        "offsets backwards": changed("image_features", data_offsets=[end, begin]),
        "another dtype of the same size": changed("image_features", dtype="I32"),
        "a dtype that numpy lacks": changed("image_features", dtype="F8_E4M3"),
        "another shape of the same size": changed("image_features", shape=[1, HIDDEN, K]),
        "a shape beyond any memory": changed("image_features", shape=[1 << 62, 1 << 62, 4]),
        "an empty tensor with a long edge": packed(
            {**header, "x": {"dtype": "F32", "shape": [0, (1 << 64) - 1], "data_offsets": [0, 0]}},
            data,
        ),
        "a tensor too few": packed(rest, data),
        "a tensor too many": packed(
            {**header, "x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, data
        ),
        "another name": packed({**rest, "scores": header["kept_scores"]}, data),
        "no checksum": packed(tensors, data),
        "null for metadata": packed({**tensors, "__metadata__": None}, data),
        "another checksum": packed(
            {**header, "__metadata__": {"sha256": digest["sha256"][::-1]}}, data
        ),
        "sound, of another picture": save(
            {
                name: np.zeros_like(getattr(features(1), name))
                for name in ("image_features", "kept_indices", "kept_scores")
            },
            digest,
        ),
    }


def test_a_damaged_hostile_or_foreign_file_is_ignored_and_made_again(tmp_path):
    FeatureCache(SOURCE, folder=tmp_path).put("a", features(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for wrong, content in hostile_files(whole).items():
        path.write_bytes(content)
        cache = FeatureCache(SOURCE, folder=tmp_path)
        assert cache.get("a") is None, wrong
        cache.put("a", features(1))
        assert path.read_bytes() == whole


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_whatever_bytes_change_the_features_are_the_same_or_none(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("kept")
    FeatureCache(SOURCE, folder=folder).put("a", features(1))
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    kept = FeatureCache(SOURCE, folder=folder).get("a")
    if kept is not None:
        assert_same(kept, features(1))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    FeatureCache(SOURCE, folder=tmp_path).put("a", features(1))
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    monkeypatch.setattr(type(path), "open", lambda *_: pytest.fail("opened"))
    assert FeatureCache(SOURCE, folder=tmp_path).get("a") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_or_folder_in_a_files_place_is_none(tmp_path):
    path = tmp_path / f"{SOURCE.name}-a.features.safetensors"
    for make, remove in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir)):
        make(path)
        assert FeatureCache(SOURCE, folder=tmp_path).get("a") is None
        remove(path)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from pocketvlm.vision.feature_cache import FeatureCache, FeatureSource
from pocketvlm.vision.features import VisionFeatures

value, k, hidden = map(int, sys.argv[3:])
features = VisionFeatures(
    np.full((1, k, hidden), value, np.float32),
    np.arange(k)[None] + value,
    np.full((1, k), value, np.float32),
)
source = FeatureSource(sys.argv[2], k, hidden, nested=True)
for _ in range(60):
    FeatureCache(source, folder=Path(sys.argv[1])).put("a", features)
"""


WRITERS = range(1, 9)  # each writes a value of its own


def test_several_processes_write_and_read_one_file(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), SOURCE.name]
    writers = [subprocess.Popen([*command, str(value), str(K), str(HIDDEN)]) for value in WRITERS]
    results = []
    while any(writer.poll() is None for writer in writers):
        if (kept := FeatureCache(SOURCE, folder=tmp_path).get("a")) is not None:
            results.append(kept)
    assert [writer.returncode for writer in writers] == [0] * len(WRITERS)
    results.append(FeatureCache(SOURCE, folder=tmp_path).get("a"))
    for kept in results:
        value = kept.kept_indices[0, 0]
        assert value in WRITERS
        assert (kept.image_features == value).all()
        assert (kept.kept_scores == value).all()
    assert [path.name for path in tmp_path.iterdir()] == [f"{SOURCE.name}-a.features.safetensors"]


def test_the_folder_is_bounded_too(tmp_path):
    (tmp_path / "keep.txt").write_text("not ours")
    cache = FeatureCache(
        SOURCE, FeatureLimits(memory_bytes=0, disk_bytes=3 * (SIZE + 450)), tmp_path
    )
    for number in range(3):
        cache.put(str(number), features(number))
        os.utime(tmp_path / f"{SOURCE.name}-{number}.features.safetensors", (number, number))
    assert_same(cache.get("0"), features(0))  # used now
    cache.put("3", features(3))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "keep.txt",
        *(f"{SOURCE.name}-{number}.features.safetensors" for number in (0, 2, 3)),
    }


def test_what_killed_processes_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    cache = FeatureCache(SOURCE, folder=tmp_path)
    left, living = (
        fresh_name(tmp_path / f"other-{name}.features.safetensors", ".tmp") for name in ("a", "b")
    )
    for path in (left, living):
        path.write_bytes(b"half")
    with living.open() as stream:
        try_lock(stream.fileno())
        cache.put("a", features(0))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {living.name, f"{SOURCE.name}-a.features.safetensors"}


def test_a_folder_that_cannot_be_made_is_refused_one_that_cannot_be_written_is_not(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(PocketVLMError, match=r"no features can be kept in .*Not a directory"):
        FeatureCache(SOURCE, folder=tmp_path / "file" / "sub")
    cache = FeatureCache(SOURCE, folder=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    cache.put("a", features(0))
    assert_same(cache.get("a"), features(0))


@pytest.fixture
def encoded(monkeypatch):
    """Counts pictures that go through the vision graph."""
    calls, real = [], VisionEncoder.encode

    def encode(self, pixel_values, *rest):
        calls.append(len(pixel_values))
        return real(self, pixel_values, *rest)

    monkeypatch.setattr(VisionEncoder, "encode", encode)
    return calls


def test_answers_from_a_folder_equal_those_without(artifact_dir, picture, tmp_path, encoded):
    plain = VLM.load(artifact_dir).generate("what?", [picture], sampling=Sampling(max_new_tokens=6))
    for _ in range(2):
        vlm = VLM.load(artifact_dir, budget=12, feature_cache=tmp_path / "kept")
        for budget in (6, 6, 3):
            answer = vlm.generate(
                "what?", [picture], budget=budget, sampling=Sampling(max_new_tokens=6)
            )
            if budget == 6:
                assert (answer.token_ids, answer.kept_indices) == (
                    plain.token_ids,
                    plain.kept_indices,
                )
    assert len(encoded) == 2  # once without, once for all others


def test_where_nothing_is_kept_every_answer_sees_for_itself(artifact_dir, picture, encoded):
    vlm = VLM.load(artifact_dir, limits=NOTHING_KEPT)
    for _ in range(2):
        vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=1))
    assert len(encoded) == 2


def with_weights_apart(root, **options):
    """A tiny artifact whose vision graph has its weights in a file of their own."""
    write_artifact(root, **options)
    path, data = root / "onnx" / "vision_encoder.onnx", b""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).tobytes()
            tensor.raw_data = values  # so that it is not a list
            tensor.ClearField("float_data")
            set_external_data(tensor, "vision_encoder.onnx_data", len(data), len(values))
            tensor.ClearField("raw_data")
            data += values
    onnx.save(model, path)
    path.with_suffix(".onnx_data").write_bytes(data)
    write_manifest(root, read_manifest(root))


@pytest.mark.parametrize(
    ("make", "check"), [(write_artifact, "auto"), (with_weights_apart, "sizes")]
)
def test_an_artifact_that_states_anothers_id_does_not_get_at_its_features(
    tmp_path, picture, encoded, make, check
):
    names = ("sound", "other", "copy")
    for name, seed in zip(names, (0, 1, 0), strict=True):
        make(tmp_path / name, seed=seed)
    state_the_id_of(tmp_path / "other", tmp_path / "sound")
    own = {}
    for cache in (None, tmp_path / "kept", tmp_path / "kept"):
        for name in names:
            vlm = VLM.load(tmp_path / name, check=check, feature_cache=cache)
            answer = vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=4))
            content = answer.token_ids, answer.kept_indices
            assert own.setdefault(name, content) == content
    assert own["sound"] == own["copy"] != own["other"]
    graphs = [tmp_path / name / "onnx" / "vision_encoder.onnx" for name in names]
    if make is with_weights_apart:  # nothing but the weights tells them apart
        assert len({graph.read_bytes() for graph in graphs}) == 1
    # Each without a folder; then one of each content, which the copy and the second round reuse.
    assert len(encoded) == 3 + 2


def test_each_device_of_a_provider_has_features_of_its_own(
    artifact_dir, picture, tmp_path, encoded
):
    artifact = Artifact.open(artifact_dir)
    decoder = open_decoder(artifact, settings=EngineSettings(threads=1))
    name = "AzureExecutionProvider"  # which computes nothing, and is in every build
    for options, batches in (({}, 1), ({"device": 0}, 2), ({"device": 1}, 3), ({"device": 0}, 3)):
        device = EngineSettings(threads=1, providers=(Provider(name, options),))
        encoder = VisionEncoder.open(artifact, settings=device)
        vlm = VLM(artifact, encoder, decoder, feature_cache=tmp_path / "kept")
        vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=2))
        assert len(encoded) == batches


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_kept_features_are_private_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        FeatureCache(SOURCE, folder=tmp_path / "a" / "kept").put("a", features(1))
    finally:
        os.umask(before)
    (path,) = (tmp_path / "a" / "kept").iterdir()
    modes = [part.stat().st_mode & 0o777 for part in (tmp_path / "a", path.parent, path)]
    assert modes == [0o700, 0o700, 0o600]
