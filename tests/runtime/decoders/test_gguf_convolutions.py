"""Headers of GGUF files with layers of convolutions: what they state, and what is refused of it."""

import pytest

from pocketvlm.decoders.gguf_header import read_header
from pocketvlm.errors import ArtifactError
from support.altered_gguf import joined, parts
from support.gguf_of_models import write_model
from support.tiny_hybrid import PREFIXES, spec_of, tiny_hybrid

HEADS, KERNEL = b"lfm2.attention.head_count_kv", b"lfm2.shortconv.l_cache"
INT32, UINT32, FLOAT32, LIST = 5, 4, 6, 9


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    model = tiny_hybrid()
    folder = tmp_path_factory.mktemp("convolutions")
    return write_model(model, spec_of(model), folder, prefixes=PREFIXES).read_bytes()


def altered(content, path, change):
    file = parts(content)
    change(file)
    path.write_bytes(joined(file))
    return path


def test_heads_of_no_layer_are_convolutions(content, tmp_path):
    header = read_header(altered(content, tmp_path / "a.gguf", lambda file: None))
    assert (header.architecture, header.layers, header.kv_heads) == ("lfm2", 6, 2)
    assert (header.conv_layers, header.conv_width) == ((0, 1, 3, 5), 3)


@pytest.mark.parametrize(
    "heads",
    [
        (LIST, (INT32, [0, 0, 2, 0, 2])),  # of too few layers
        (LIST, (INT32, [0, 0, 2, 0, 2, 0, 0])),
        (LIST, (INT32, [0] * 6)),  # none attends
        (LIST, (INT32, [0, 0, 2, 0, 1, 0])),  # heads that differ
        (LIST, (INT32, [0, 0, 3, 0, 3, 0])),  # that do not divide the query heads
        (LIST, (INT32, [0, 0, -2, 0, -2, 0])),
        (LIST, (INT32, [0, 0, 1 << 30, 0, 1 << 30, 0])),
        (LIST, (UINT32, [0, 0, 2, 0, 2, 0])),
        (LIST, (INT32, [0] * 600)),
        (UINT32, 2),  # a plain number
    ],
)
def test_other_lists_of_heads_are_refused(content, tmp_path, heads):
    def change(file):
        file.setting(HEADS)[1:] = heads

    with pytest.raises(ArtifactError):
        read_header(altered(content, tmp_path / "a.gguf", change))


@pytest.mark.parametrize("kernel", [(UINT32, 0), (UINT32, 1), (UINT32, 5000), (FLOAT32, 3.0)])
def test_other_kernels_are_refused(content, tmp_path, kernel):
    def change(file):
        file.setting(KERNEL)[1:] = kernel

    with pytest.raises(ArtifactError):
        read_header(altered(content, tmp_path / "a.gguf", change))


def test_kernels_that_are_not_stated_are_refused(content, tmp_path):
    def change(file):
        file.settings.remove(file.setting(KERNEL))

    with pytest.raises(ArtifactError, match="kernels of 0"):
        read_header(altered(content, tmp_path / "a.gguf", change))
