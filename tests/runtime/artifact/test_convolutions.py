"""Manifests of decoders with layers of convolutions: what they state, and what they leave out."""

import pytest

from pocketvlm.artifact.manifest import Manifest
from pocketvlm.errors import ArtifactError
from pocketvlm.ort.signatures import cache_tensors
from support.tiny_artifact import read_manifest, write_artifact


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convolutions") / "a"
    write_artifact(folder)
    return read_manifest(folder)


def manifest(stated, **decoder):
    return Manifest.from_dict({**stated, "decoder": {**stated["decoder"], **decoder}})


def test_a_decoder_that_attends_states_nothing_of_them(stated):
    written = manifest(stated).to_dict()["decoder"]
    assert not written.keys() & {"conv_layers", "conv_width"}


def test_what_is_written_is_read_again(stated):
    first = manifest(stated, conv_layers=[0], conv_width=3)
    assert first.to_dict()["decoder"]["conv_layers"] == [0]
    again = Manifest.from_json(first.to_json())
    assert again == first
    assert (again.decoder.conv_layers, again.decoder.attention_layers) == ((0,), (1,))


def test_the_cache_has_the_names_and_shapes_of_each_kind_of_layer(stated):
    spec = manifest(stated, conv_layers=[0], conv_width=3).decoder
    tensors = cache_tensors(spec)
    assert [tensor.past for tensor in tensors] == [
        "past_conv.0",
        "past_key_values.1.key",
        "past_key_values.1.value",
    ]
    assert [tensor.present for tensor in tensors] == [
        "present_conv.0",
        "present.1.key",
        "present.1.value",
    ]
    assert tensors[0].of(5) == tensors[0].of(0) == (1, spec.hidden, 3)
    assert tensors[1].of(5) == (1, spec.kv_heads, 5, spec.head_dim)
    assert [tensor.layer for tensor in tensors] == [0, 1, 1]


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        ({"conv_layers": [2], "conv_width": 3}, "more than it has"),
        ({"conv_layers": [1, 0], "conv_width": 3}, "not in order"),
        ({"conv_layers": [0, 0], "conv_width": 3}, "not in order"),
        ({"conv_layers": [0]}, "have no width"),
        ({"conv_width": 3}, "have no width"),
        ({"conv_layers": [-1], "conv_width": 3}, "damaged"),
        ({"conv_layers": "all", "conv_width": 3}, "damaged"),
        ({"conv_layers": [0.0], "conv_width": 3}, "without a decimal point"),
        (
            {
                "conv_layers": [0],
                "conv_width": 3,
                "stages": [{"layer": 1, "keep": 2, "by": "last-token"}],
            },
            "to drop tokens between layers, and has convolutions",
        ),
    ],
)
def test_contradictions_are_refused(stated, decoder, reason):
    with pytest.raises(ArtifactError, match=reason):
        manifest(stated, **decoder)
