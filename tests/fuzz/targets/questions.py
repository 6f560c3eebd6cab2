"""Question sets, lines of JSON."""

from pathlib import Path
from random import Random

from hypothesis import strategies as st

from fuzz.base import OUTSIDE, Target, put
from fuzz.byte_changes import damaged
from fuzz.drawn import Drawn
from fuzz.json_changes import TEXTS, changed, written
from pocketvlm_measure.evaluation.questions import read_questions

_ROW = {
    "id": "1",
    "question": "what?",
    "answers": ["a", "b"],
    "image": "a.png",
    "video": ["b.mp4"],
    "tags": ["x"],
}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
_LINE = st.fixed_dictionaries(
    {"question": st.text() | _JSON, "answers": st.lists(st.text()) | _JSON},
    optional={
        "image": st.sampled_from((*OUTSIDE, *TEXTS)) | st.lists(st.text(), max_size=3) | _JSON,
        "video": st.text() | _JSON,
        "tags": st.lists(st.text(), max_size=3) | _JSON,
        "id": st.text() | st.integers() | _JSON,
    },
)


class Fuzz(Target):
    """See the module."""

    threat = "a downloaded set whose lines end an evaluation, or reach files as it is read"

    def prepare(self, folder: Path) -> None:
        del folder
        self.lines = Drawn(st.lists(_LINE, min_size=1, max_size=6))

    def write(self, random: Random, box: Path) -> None:
        if random.random() < 0.5:
            rows = self.lines.one(self.number)
        else:
            rows = [changed(random, _ROW) for _ in range(random.randrange(1, 6))]
        content = random.choice((b"\n", b"\r\n", b"\n\n")).join(
            written(random, row) for row in rows
        )
        put(box / "set.jsonl", content if random.random() < 0.85 else damaged(random, content))

    def use(self, box: Path) -> None:
        read_questions(box / "set.jsonl")
