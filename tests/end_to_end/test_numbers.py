"""Every public parameter that is a number takes those of any library and gives the same as Python's
own; what is not a number ends in one line."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest

import pocketvlm
from pocketvlm import VLM, Artifact, PocketVLMError, Provider
from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions
from pocketvlm_export.caps import Caps
from pocketvlm_measure.cases import Case, sweep
from pocketvlm_measure.evaluation.engines.local import local
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.plan import subjects
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.evaluation.run import evaluate
from pocketvlm_measure.profiler.measure import profile
from pocketvlm_measure.profiler.questions import Question
from support.tiny_artifact import write_artifact

WHOLE = [np.int64, np.uint8, np.int8]
ANY = [np.float64, np.float32, np.float16, np.longdouble, Fraction]
NO_NUMBERS = [True, np.True_, "3", b"3", object(), np.array([3]), [3], 3j]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, 3.0, 3.5, np.float64(3), Fraction(3), float("nan")]
NO_FINITE_NUMBERS = [*NO_NUMBERS, float("nan"), float("inf"), np.float32("nan")]
# A number that each parameter takes, where 3 does not do.
FITTING = {
    "min_new_tokens": 1, "max_tiles": 1, "threads": 1, "seed": 3, "context": 100, "top_p": 0.5,
    "min_p": 0.5, "temperature": 0.5, "warmup": 0, "limit": 1, "workers": 1, "max_seconds": 0.5,
}  # fmt: skip


@dataclasses.dataclass
class Place:
    """Something public that takes numbers, and what it makes of them, to be compared."""

    takes: Any
    call: Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("numbers") / "artifact"
    write_artifact(root)
    (root.parent / "set.jsonl").write_text('{"question": "what?", "answers": ["red"]}\n' * 2)
    return root


@pytest.fixture(scope="module")
def places(tiny):
    """Every public function and dataclass with a number among its parameters."""
    artifact, vlm = Artifact.open(tiny), VLM.load(tiny)
    picture = np.full((8, 9, 3), 100, dtype=np.uint8)
    data, cases = read_questions(tiny.parent / "set.jsonl"), sweep(artifact.manifest)

    def generate(**given):
        answer = vlm.generate("what?", [picture], sampling=pocketvlm.Sampling(3), **given)
        return answer.text, answer.token_ids

    def loaded(**given):
        vlm = VLM.load(tiny, **given)
        return vlm.artifact, vlm.budget

    def answered(max_new_tokens):
        answers = tiny.parent / "answers.jsonl"
        answers.unlink(missing_ok=True)
        asked = subjects(tiny, artifact, cases)
        evaluate(data, asked, METRICS["exact"], answers, local(1), max_new_tokens=max_new_tokens)
        return [re.sub(r'"ttft_ms": [\d.e-]+', "", answers.read_text())]

    def profiled(**given):
        # Refused before anything is measured, but after the numbers.
        question = Question("<image>" * 9)
        return profile(artifact, cases, question, **given)

    functions = [
        Place(VLM.load, loaded),
        Place(VLM.generate, generate),
        Place(VLM.stream, lambda **given: [*vlm.stream("what?", [picture], **given)]),
        Place(VLM.chat, lambda **given: [*vlm.chat(**given).stream("what?", [picture])]),
        Place(Artifact.shortened, lambda **given: artifact.shortened(**given)),
        Place(Artifact.capped, lambda **given: artifact.capped(**given)),
        Place(sweep, lambda **given: sweep(artifact.manifest, **given)),
        Place(subjects, lambda **given: subjects(tiny, artifact, cases, **given)),
        Place(local, lambda **given: type(local(**given))),
        Place(read_questions, lambda **given: read_questions(data.path, **given)),
        Place(evaluate, answered),
        Place(profile, profiled),
    ]
    case = dataclasses.asdict(cases[0])
    classes = [
        *[
            getattr(pocketvlm, name)
            for name in pocketvlm.__all__
            if name.endswith("Limits") and name != "Limits"  # which holds the others
        ],
        pocketvlm.Sampling,
        pocketvlm.EngineSettings,
        ExportOptions,
        Caps,
    ]
    return [
        *functions,
        *[Place(kind, kind) for kind in classes],
        Place(Stage, lambda **given: Stage(**{"layer": 1, "keep": 1, **given})),
        Place(Question, lambda **given: Question(**{"prompt": "what?", **given})),
        Place(Case, lambda **given: Case(**{**case, **given})),
    ]


def numbers_of(taker: Any) -> dict[str, str]:
    """{parameter: its annotation} of those that are numbers, alone or in a tuple."""
    function = taker.__init__ if inspect.isclass(taker) else taker
    hints = {name: str(hint) for name, hint in get_type_hints(function).items()}
    return {
        name: hint.replace("<class '", "").replace("'>", "")
        for name, hint in hints.items()
        if re.search(r"\b(int|float)\b", hint)
        and name != "return"
        and "Mapping" not in hint
        and "Callable" not in hint
        and "NDArray" not in hint
        and "ndarray" not in hint
    }


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the line that it refuses with."""
    try:
        return call()
    except PocketVLMError as error:
        return str(error)


def sample(name: str, hint: str, kind: Any) -> Any:
    """A value for a parameter: a number of a kind, in tuples where it takes those."""
    number = kind(FITTING.get(name, 3))
    pair = re.search(r"tuple\[int, int\]", hint)
    several = re.search(r"(tuple|Sequence)\[", hint)
    return (number, number) if pair else (number,) if several else number


def test_numbers_of_any_library_are_numbers(places):
    tried = 0
    for place in places:
        parameters = numbers_of(place.takes)
        assert parameters, place.takes
        for name, hint in parameters.items():
            kinds, own = (ANY, float) if "float" in hint else (WHOLE, int)
            expected = outcome(lambda: place.call(**{name: sample(name, hint, own)}))  # noqa: B023
            for kind in kinds:
                given = sample(name, hint, kind)
                got = outcome(lambda: place.call(**{name: given}))  # noqa: B023
                assert got == expected, (place.takes, name, kind)
                if dataclasses.is_dataclass(got) and hasattr(got, name):
                    mine = getattr(got, name)
                    assert type(mine) is type(getattr(expected, name))
                    assert not isinstance(mine, np.generic)
                    assert repr(got) == repr(expected)
                tried += 1
    assert tried > 120


def test_what_is_no_number_is_refused_in_one_line(places):
    tried = 0
    for place in places:
        if place.takes is Case:  # made of numbers that were checked
            continue
        for name, hint in numbers_of(place.takes).items():
            wrong = NO_FINITE_NUMBERS if "float" in hint else NO_WHOLE_NUMBERS
            for value in wrong:
                if isinstance(value, list | np.ndarray) and "[" in hint:
                    continue  # a sequence of numbers is right there
                given = (value,) if "[" in hint else value
                got = outcome(lambda: place.call(**{name: given}))  # noqa: B023
                assert isinstance(got, str), (place.takes, name, value)
                assert "\n" not in got
                tried += 1
    assert tried > 400


def test_numbers_beyond_any_use_are_refused(tiny):
    for huge in (10**400, 10**5000, -(10**5000)):
        with pytest.raises(PocketVLMError, match="budget is beyond 64 bits"):
            VLM.load(tiny, budget=huge)


def test_options_of_a_provider_are_plain_numbers():
    options = Provider("CPUExecutionProvider", {"a": np.int64(3), "b": True, "c": "x"}).options
    assert [type(value) for value in options.values()] == [int, bool, str]
