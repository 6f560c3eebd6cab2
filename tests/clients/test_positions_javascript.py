"""Numbers of tokens in plain JavaScript, against vectors of transformers and the runtime's own.

All cases of this file run in one process of Node.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.decoders.positions import positions_named
from pocketvlm.layouts import TokenGrid
from support.web_modules import NODE, Cases

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

DATA = Path(__file__).parents[1] / "data"
MROPE = json.loads((DATA / "mrope_positions.json").read_text())


def pieces_of(vector):
    """A vector's prompt: its text, and its pictures where their spans begin."""
    pieces, read, kept_tokens = [], 0, 0
    for (start, size), (down, across), kept in zip(
        vector["spans"], vector["grids"], vector["kept"], strict=True
    ):
        before = start - kept_tokens
        pieces.append({"text": before - read})
        grid = {"rows": down // 2, "columns": across // 2}
        pieces.append({"grid": grid, "kept": kept})
        read, kept_tokens = before, kept_tokens + size
    return [*pieces, {"text": len(vector["text_ids"]) - read}]


def random_pieces(rng):
    pieces = [{"text": int(rng.integers(1, 9))}]
    for _ in range(rng.integers(0, 4)):
        rows, columns = rng.integers(1, 9, 2).tolist()
        count = int(rng.integers(1, rows * columns + 1))
        kept = np.sort(rng.permutation(rows * columns)[:count]).tolist()
        pieces.append({"grid": {"rows": rows, "columns": columns}, "kept": kept})
        pieces.append({"text": int(rng.integers(0, 9))})
    return pieces


PROMPTS = [random_pieces(np.random.default_rng(seed)) for seed in range(40)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    cases, numbers = Cases(tmp_path_factory.mktemp("positions")), {}
    for row, vector in enumerate(MROPE):
        numbers["vector", row] = cases.add("positions", name="mrope", pieces=pieces_of(vector))
    for name in ("contiguous", "mrope"):
        for row, pieces in enumerate(PROMPTS):
            numbers[name, row] = cases.add("positions", name=name, pieces=pieces)
    numbers["refused", "positions"] = cases.add("positions", name="alibi", pieces=[])
    grid = {"rows": 2, "columns": 2}
    for name, kept in (("order", [2, 1]), ("beyond", [1, 4]), ("twice", [1, 1])):
        numbers["refused", name] = cases.add(
            "positions", name="mrope", pieces=[{"grid": grid, "kept": kept}]
        )
    return cases, numbers


def test_position_vectors_of_transformers(results):
    cases, numbers = results
    for row, vector in enumerate(MROPE):
        result = cases.result(numbers["vector", row])
        assert result["planes"] == vector["positions_of_what_is_left"]
        assert result["next"] == vector["next_position"]


@pytest.mark.parametrize("name", ["contiguous", "mrope"])
def test_positions_equal_the_runtimes(results, name):
    cases, numbers = results
    positions = positions_named(name)
    for row, pieces in enumerate(PROMPTS):
        planes, start = [], 0
        for piece in pieces:
            if "kept" in piece:
                kept = np.array(piece["kept"])
                grid = TokenGrid(**piece["grid"])
                numbered, start = positions.picture(start, grid, kept, len(kept))
            else:
                numbered, start = positions.text(start, piece["text"])
            planes.append(numbered)
        expected = np.concatenate(planes, axis=1)
        result = cases.result(numbers[name, row])
        assert result["planes"] == expected.tolist()
        assert result["next"] == start


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("positions", "numbers tokens by alibi, which is not served here"),
        ("order", "are not rising numbers of them (2,1)"),
        ("beyond", "are not rising numbers of them (1,4)"),
        ("twice", "are not rising numbers of them (1,1)"),
    ],
)
def test_refusals_are_in_words(results, name, words):
    cases, numbers = results
    refused = cases.result(numbers["refused", name])["refused"]
    assert refused.startswith("ClientError: ")
    assert words in refused
