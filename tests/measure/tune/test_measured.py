"""What a tuning measures in a folder: answers as `evaluate` gives them, and turns of times."""

import json

import pytest

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.evaluation.engines.local import Inline
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.plan import subjects
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.evaluation.run import evaluate
from pocketvlm_measure.tune.measured import score_of, times_beside
from pocketvlm_measure.tune.search import tune
from pocketvlm_measure.tune.source import Taken
from pocketvlm_measure.tune.tuning import TuneLimits

LATE = 1e9


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def by_budget(source):
    return {one.case.budget: one for one in (source.baseline, *source.candidates)}


def test_answers_are_those_of_an_evaluation_and_a_picture_is_encoded_once(
    opened, write_set, artifact_dir, tmp_path, monkeypatch
):
    encoded, encode = [], VisionEncoder.encode

    def counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    data = write_set()
    with opened(data) as source:
        monkeypatch.setattr(VisionEncoder, "encode", counted)
        ours = [source.baseline, *source.candidates]
        scores = source.answer(ours, range(6), LATE)
        assert len(encoded) == 3
        assert {len(by_question) for by_question in scores.values()} == {6}
        assert sorted(source.pictures) == [0, 0, 1, 1, 2, 2]
    artifact = Artifact.open(artifact_dir)
    asked = subjects(
        artifact_dir, artifact, sweep(artifact.manifest, budgets=[12, 6, 3, 1], threads=[1])
    )
    # The same file serves an evaluation: it asks nothing again.
    evaluation = evaluate(
        read_questions(data), asked, METRICS["exact"], tmp_path / "a.jsonl", Inline(),
        resume=True, max_new_tokens=4,
    )  # fmt: skip
    assert len(encoded) == 3
    texts = {(a.case.budget, r.line): r.text for a in evaluation.answered for r in a.replies}
    assert texts == {
        (row["budget"], row["line"]): row["text"] for row in rows(source.asking.answers)
    }


def test_nothing_is_asked_or_timed_twice(opened, write_set, runs, tmp_path):
    data, limits = write_set(), TuneLimits(100, time=LATE)
    with opened(data) as source:
        first = tune(source, limits)
    answers, times = rows(tmp_path / "a.jsonl"), rows(tmp_path / "a.times.jsonl")
    assert len({(row["budget"], row["line"]) for row in answers}) == len(answers)
    made = len(runs)
    assert made == sum(len(row["taken"]) for row in times)
    with opened(data, resume=True) as source:
        again = tune(source, limits)
    assert (rows(tmp_path / "a.jsonl"), len(runs)) == (answers, made)
    assert again.chosen == first.chosen
    assert again.evidence == first.evidence


@pytest.mark.parametrize(("kept", "cut"), [(1, 0), (4, 0), (4, 25), (9, 10)])
def test_a_killed_tuning_goes_on_and_comes_to_the_same(
    opened, write_set, runs, tmp_path, kept, cut
):
    data, limits = write_set(), TuneLimits(100, time=LATE)
    with opened(data, "whole.jsonl") as source:
        whole = tune(source, limits)
    for name, lines_kept in (("whole.jsonl", kept), ("whole.times.jsonl", 2)):
        lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
        part = b"".join(lines[:lines_kept]) + b"".join(lines[lines_kept : lines_kept + 1])[:cut]
        (tmp_path / name.replace("whole", "cut")).write_bytes(part)
    with opened(data, "cut.jsonl", resume=True) as source:
        again = tune(source, limits)
    assert again.chosen == whole.chosen
    assert again.evidence == whole.evidence
    asked = [(row["budget"], row["line"]) for row in rows(tmp_path / "cut.jsonl")]
    assert sorted(set(asked)) == sorted(asked)
    assert [row["turn"] for row in rows(tmp_path / "cut.times.jsonl")] == [0, 1, 2]


def test_a_run_that_ends_in_the_middle_keeps_what_was_answered(opened, write_set, monkeypatch):
    with opened(write_set(8)) as source:
        ticks = iter(range(100))
        monkeypatch.setattr(type(source), "clock", lambda _: next(ticks))
        scores = source.answer([source.baseline], range(8), until=2)
    answered = scores[source.baseline]
    assert 0 < len(answered) < 8
    assert len(rows(source.asking.answers)) == len(answered)


def test_a_candidate_that_cannot_run_is_named_and_not_run_again(
    opened, write_set, runs, monkeypatch
):
    from pocketvlm_measure.tune import measured

    works = measured.run_once

    def run(folder, case, *rest):
        if case.budget == 3:
            runs.append(case)
            raise PocketVLMError("no room for it")
        return works(folder, case, *rest)

    monkeypatch.setattr(measured, "run_once", run)
    data = write_set()
    with opened(data) as source:
        tuning = tune(source, TuneLimits(100, time=LATE))
    (refused,) = [one for one in tuning.evidence if one.verdict == "refused"]
    assert (refused.candidate.case.budget, refused.reason) == (3, "no room for it")
    made = len(runs)
    with opened(data, resume=True) as source:
        tune(source, TuneLimits(100, time=LATE))
    assert len(runs) == made


def test_a_run_in_a_process_of_its_own_has_a_time_and_a_peak(opened, write_set):
    with opened(write_set(2)) as source:
        taken = source.turn([by_budget(source)[6]], 0, LATE)
    ((candidate, result),) = taken.items()
    assert candidate.case.budget == 6
    assert isinstance(result, Taken)
    assert result.ttft_ms > 0
    assert result.peak_bytes is None or result.peak_bytes > 10**7


def test_the_largest_picture_and_the_longest_question_are_timed(opened, write_set, tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 60)).save(tmp_path / "large.png")
    large = [
        json.dumps({"image": "large.png", "question": text, "answers": ["red"]})
        for text in ("short?", "a longer one?")
    ]
    with opened(write_set(4, large)) as source:
        assert source.timed.images == (str(tmp_path / "large.png"),)
        assert source.timed.prompt == "a longer one?"


def test_pictures_within_the_set_are_timed_as_noise_of_their_size(opened, write_set, tmp_path):
    import base64
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("RGB", (70, 50)).save(stream, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    row = json.dumps({"image": uri, "question": "what?", "answers": ["red"]})
    with opened(write_set(2, [row])) as source:
        assert (source.timed.images, source.timed.picture_size) == ((), (70, 50))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ('{"question": "what?"}', "has no answers"),
        ('{"image": "gone.png", "question": "what?", "answers": ["red"]}', "gone.png"),
    ],
)
def test_broken_lines_end_the_run_or_are_left_out(opened, write_set, runs, line, reason):
    data = write_set(4, [line])

    def whole(**how):
        with opened(data, **how) as source:
            return tune(source, TuneLimits(100, time=LATE)), source.skipped

    with pytest.raises(PocketVLMError, match=reason):
        whole()
    tuning, skipped = whole(answers="b.jsonl", on_broken="skip")
    assert {item.line for item in skipped} == {5}
    assert max(one.questions for one in tuning.evidence) <= 4
    assert tuning.chosen is not None


@pytest.mark.parametrize(
    "line",
    [
        '{"turn": 0}',
        '{"turn": "0", "taken": []}',
        '{"turn": 0, "taken": [1]}',
        '{"turn": 0, "taken": [{"artifact": "a", "case": "c", "ttft_ms": "1", "peak_bytes": 1}]}',
        '{"turn": 0, "taken": [{"artifact": "a", "case": "c", "refused": 1}]}',
    ],
)
def test_damaged_times_are_refused_by_their_line(opened, write_set, tmp_path, line):
    data = write_set(2)
    with opened(data):
        pass
    with times_beside(tmp_path / "a.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(PocketVLMError, match=r"a.times.jsonl line 2 is not a valid time"):  # noqa: SIM117
        with opened(data, resume=True):
            pass


def test_times_of_another_machine_do_not_count(opened, write_set, tmp_path):
    data = write_set(2)
    with opened(data):
        pass
    times = times_beside(tmp_path / "a.jsonl")
    head = json.loads(times.read_text())
    times.write_text(json.dumps({**head, "cpu": "another"}) + "\n")
    with pytest.raises(PocketVLMError, match="measured with cpu another"):  # noqa: SIM117
        with opened(data, resume=True):
            pass


def test_an_answer_counts_by_its_score_or_by_right_and_wrong():

    assert score_of(METRICS["exact"], (1.0, 1.0)) == 1
    assert score_of(METRICS["anls"], (0.6, 1.0)) == 0.6
    yesno = METRICS["yesno-f1"]
    assert score_of(yesno, yesno.parts("yes", ["yes"])) == 1
    assert score_of(yesno, yesno.parts("yes", ["no"])) == 0
