"""What an export states as the pair of decoders that answer together."""

import pytest

from pocketvlm_export.options import ExportOptions


@pytest.mark.parametrize(
    ("precisions", "pair"),
    [
        (("int4", "int8"), "int8+int4"),
        (("int8", "fp32", "int4"), "int8+int4"),
        (("fp32", "int8", "int4"), ""),  # who asks for float32 first is answered by it
        (("int4",), ""),
        (("int8", "int4_b128"), ""),
    ],
)
def test_int8_and_int4_answer_together_where_one_is_the_default(precisions, pair):
    assert ExportOptions(decoder_precisions=precisions).pair == pair


def test_llama_cpp_alone_has_no_pair():
    assert ExportOptions(decoder="llama.cpp").pair == ""
