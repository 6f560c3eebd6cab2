"""A run asks every question of every case once, whatever interrupts it and wherever it runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Sampling
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.evaluation.baselines import against
from pocketvlm_measure.evaluation.engines.local import Inline, Processes
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.plan import subjects
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.evaluation.run import evaluate
from pocketvlm_measure.evaluation.summary import summarise, to_dict
from support.tiny_artifact import give_selectors, state_the_id_of, write_artifact

EXACT = METRICS["exact"]


def texts(evaluation):
    """{(budget, line): answer}."""
    return {
        (a.case.budget, reply.line): reply.text for a in evaluation.answered for reply in a.replies
    }


def rows(path):
    """What a file of answers says, its times left out, in no order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        json.dumps({k: v for k, v in row.items() if k != "ttft_ms"}, sort_keys=True)
        for row in lines
    )


def test_answers_are_those_of_the_model_at_each_budget(artifact_dir, asked, write_set, tmp_path):
    data = read_questions(write_set())
    evaluation = evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline(), max_new_tokens=5)
    for budget in (12, 6, 3):
        vlm = VLM.load(artifact_dir, budget=budget, settings=EngineSettings(threads=1))
        for question in data.questions:
            answer = vlm.generate(
                question.text, list(question.images), sampling=Sampling(max_new_tokens=5)
            )
            assert texts(evaluation)[budget, question.line] == answer.text.strip()
    replies = [reply for answered in evaluation.answered for reply in answered.replies]
    assert all(reply.ttft_ms > 0 and 0 < reply.tokens <= 5 for reply in replies)
    assert {reply.visual_tokens for reply in replies} == {12, 6, 3}


def test_a_picture_is_encoded_once_for_all_questions_and_budgets(
    asked, write_set, tmp_path, monkeypatch
):
    encoded, encode = [], VisionEncoder.encode

    def counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    monkeypatch.setattr(VisionEncoder, "encode", counted)
    evaluate(read_questions(write_set(8)), asked, EXACT, tmp_path / "a.jsonl", Inline())
    assert encoded == [1, 1, 1, 1]


@pytest.mark.parametrize("nested", [True, False])
def test_a_shared_prefill_changes_no_answer_and_is_of_the_first_question(
    nested, write_set, tmp_path, monkeypatch
):
    folder = tmp_path / "artifact"
    write_artifact(folder, budgets=(6, 12), nested=nested)
    artifact = Artifact.open(folder)
    cases = sweep(artifact.manifest, budgets=[12, 6], threads=[1])
    answers, generate = [], VLM.generate

    def kept(self, *args, **options):
        answers.append(generate(self, *args, **options))
        return answers[-1]

    monkeypatch.setattr(VLM, "generate", kept)
    data = read_questions(write_set(8))
    evaluations = [
        evaluate(
            data,
            subjects(folder, artifact, cases, shares_prefill=shares),
            EXACT,
            tmp_path / f"{shares}.jsonl",
            Inline(),
            max_new_tokens=5,
        )
        for shares in (False, True)
    ]
    assert texts(evaluations[0]) == texts(evaluations[1])
    alone, shared = ([one.prompt_tokens["cached"] for one in part] for part in halves(answers))
    assert set(alone) == {0}
    # Two questions about each picture: the second continues behind the picture's tokens.
    firsts, seconds = shared[0::2], shared[1::2]
    budgets = [one.visual_tokens["after"] for one in answers[len(alone) :]][1::2]
    assert all(
        cached > visual and before < visual
        for before, cached, visual in zip(firsts, seconds, budgets, strict=True)
    )
    for answered in evaluations[1].answered:
        assert [reply.ttft_ms is None for reply in answered.replies] == [False, True] * 4
    assert all(score.ttft_ms.median > 0 for score in summarise(evaluations[1]).scores)


def test_answers_of_a_shared_prefill_are_a_run_of_their_own(
    artifact_dir, asked, write_set, tmp_path
):
    data, path = read_questions(write_set()), tmp_path / "a.jsonl"
    artifact = Artifact.open(artifact_dir)
    sharing = subjects(artifact_dir, artifact, asked[0].cases, shares_prefill=True)
    evaluate(data, sharing, EXACT, path, Inline())
    again = evaluate(data, sharing, EXACT, path, Inline(), resume=True)
    (answered, *_) = again.answered  # read back, those without a time too
    assert [reply.ttft_ms is None for reply in answered.replies] == [False, True] * 3
    with pytest.raises(PocketVLMError, match="shares_prefill"):
        evaluate(data, asked, EXACT, path, Inline(), resume=True)


def halves(items):
    return items[: len(items) // 2], items[len(items) // 2 :]


def test_a_method_that_is_not_nested_answers_from_the_graph_of_each_budget(write_set, tmp_path):
    write_artifact(tmp_path / "artifact", budgets=(6, 12), nested=False)
    artifact = Artifact.open(tmp_path / "artifact")
    asked = subjects(tmp_path / "artifact", artifact, sweep(artifact.manifest, budgets=[12, 6]))
    data = read_questions(write_set(2))
    evaluation = evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline(), max_new_tokens=5)
    for budget in (12, 6):
        vlm = VLM.load(tmp_path / "artifact", budget=budget)
        answer = vlm.generate(
            data.questions[1].text,
            list(data.questions[1].images),
            sampling=Sampling(max_new_tokens=5),
        )
        assert texts(evaluation)[budget, 2] == answer.text.strip()


def test_more_processes_answer_the_same(asked, write_set, tmp_path):
    data = read_questions(write_set(8))
    alone = evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline())
    together = evaluate(data, asked, EXACT, tmp_path / "b.jsonl", Processes(2))
    assert texts(alone) == texts(together)
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl")


def test_resuming_asks_what_is_left_and_nothing_twice(asked, write_set, tmp_path):
    data = read_questions(write_set())
    whole = evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline())
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    for kept, cut in ((1, 0), (7, 0), (7, 30), (len(lines), 0), (0, 5)):
        path = tmp_path / f"{kept}-{cut}.jsonl"
        path.write_bytes(b"".join(lines[:kept]) + (lines[kept][:cut] if cut else b""))
        again = evaluate(data, asked, EXACT, path, Inline(), resume=True)
        assert texts(again) == texts(whole)
        assert rows(path) == rows(tmp_path / "a.jsonl")


def test_answers_of_another_artifact_that_states_the_same_id_do_not_count(
    artifact_dir, asked, write_set, tmp_path
):
    other = tmp_path / "other"
    write_artifact(other, seed=1, budgets=(6, 12))
    state_the_id_of(other, artifact_dir)
    artifact = Artifact.open(other)
    twins = subjects(other, artifact, sweep(artifact.manifest, budgets=[12, 6, 3]))
    assert [twin.artifact_id for twin in twins] == [subject.artifact_id for subject in asked]
    data = read_questions(write_set(2))
    evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline())
    resumed = evaluate(data, twins, EXACT, tmp_path / "a.jsonl", Inline(), resume=True)
    assert texts(resumed) == texts(evaluate(data, twins, EXACT, tmp_path / "b.jsonl", Inline()))
    assert against(str(other), asked, 1).subjects  # it is another one


def test_more_questions_and_budgets_of_the_same_set_go_on_too(
    artifact_dir, asked, write_set, tmp_path
):
    path = write_set()
    part = [dataclasses.replace(subject, cases=subject.cases[:1]) for subject in asked]
    evaluate(read_questions(path, limit=3), part, EXACT, tmp_path / "a.jsonl", Inline())
    evaluate(read_questions(path), asked, EXACT, tmp_path / "a.jsonl", Inline(), resume=True)
    evaluate(read_questions(path), asked, EXACT, tmp_path / "b.jsonl", Inline())
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl")


def test_answers_to_other_questions_or_conditions_are_not_taken(asked, write_set, tmp_path):
    data, answers = read_questions(write_set()), tmp_path / "a.jsonl"
    evaluate(data, asked, EXACT, answers, Inline(), max_new_tokens=3)
    with pytest.raises(PocketVLMError, match="exists already: continue with it by --resume"):
        evaluate(data, asked, EXACT, answers, Inline(), max_new_tokens=3)
    with pytest.raises(PocketVLMError, match="answered with max_new_tokens 3: expected 4"):
        evaluate(data, asked, EXACT, answers, Inline(), max_new_tokens=4, resume=True)
    with pytest.raises(PocketVLMError, match="answered with data_sha256"):
        evaluate(
            read_questions(write_set(5)),
            asked,
            EXACT,
            answers,
            Inline(),
            max_new_tokens=3,
            resume=True,
        )


@pytest.mark.parametrize(
    ("number", "line", "reason"),
    [
        (1, b'{"format": "x"}\n', "is not a file of answers"),
        (3, b"half a li\n", "line 3 is damaged"),
        (3, b"[]\n", "line 3 is damaged"),
        (3, b'{"line": 1}\n', "line 3 is not a valid answer"),
        (3, b'{"line": "1", "budget": 3}\n', "line 3 is not a valid answer"),
    ],
)
def test_a_file_that_is_no_answers_is_refused(asked, write_set, tmp_path, number, line, reason):
    data, answers = read_questions(write_set()), tmp_path / "a.jsonl"
    evaluate(data, asked, EXACT, answers, Inline())
    lines = answers.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line
    answers.write_bytes(b"".join(lines))
    with pytest.raises(PocketVLMError, match=reason):
        evaluate(data, asked, EXACT, answers, Inline(), resume=True)
    assert answers.read_bytes() == b"".join(lines)


def test_a_run_that_was_killed_goes_on_where_it_was(artifact_dir, asked, write_set, tmp_path):
    path, answers = write_set(400), tmp_path / "a.jsonl"
    command = [
        "evaluate",
        artifact_dir,
        "--data",
        path,
        "--budget",
        "12,6,3",
        "--threads",
        1,
        "--workers",
        2,
    ]
    command += ["--max-new-tokens", 4]
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketvlm", *map(str, command), "--answers", str(answers)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while (answers.stat().st_size if answers.exists() else 0) < 5_000 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    written = answers.read_bytes()
    assert len(written.splitlines()) < 1 + 3 * 400
    answers.write_bytes(
        written + b'{"artifact": "abc", "line'
    )  # as a disk that was slower would leave it
    data = read_questions(path)
    evaluate(data, asked, EXACT, answers, Inline(), resume=True, max_new_tokens=4)
    evaluate(data, asked, EXACT, tmp_path / "b.jsonl", Inline(), max_new_tokens=4)
    assert answers.read_bytes().startswith(written[: written.rindex(b"\n")])
    assert rows(answers) == rows(tmp_path / "b.jsonl")
    assert not psutil.wait_procs(workers, timeout=30)[1]  # nobody is left behind


def test_two_runs_never_write_one_file_of_answers(asked, write_set, tmp_path):
    data, answers = read_questions(write_set(2)), tmp_path / "a.jsonl"
    refusals = []

    class Meanwhile(Inline):
        """Begins another run on the same file after each of its own answers."""

        def answered(self, tasks):
            for task, replies in super().answered(tasks):
                yield task, replies
                with pytest.raises(PocketVLMError) as refused:
                    evaluate(data, asked, EXACT, answers, Inline(), resume=True)
                refusals.append(str(refused.value))

    evaluate(data, asked, EXACT, answers, Meanwhile(), max_new_tokens=2)
    advice = "wait for it, or name another file with --answers"
    assert set(refusals) == {f"another process is writing {answers}: {advice}"}
    evaluate(data, asked, EXACT, tmp_path / "b.jsonl", Inline(), max_new_tokens=2)
    assert rows(answers) == rows(tmp_path / "b.jsonl")
    assert not list(tmp_path.glob(".*"))


def test_a_broken_line_or_picture_ends_the_run_or_is_left_out_of_every_case(
    asked, write_set, tmp_path
):
    (tmp_path / "text.png").write_text("no picture")
    extra = [
        '{"image": "text.png", "question": "what?", "answers": ["red"]}',
        "no JSON",
        '{"image": "missing.png", "question": "what?", "answers": ["red"]}',
        json.dumps(
            {"image": "0.png", "question": "what? " * 80, "answers": ["red"]}
        ),  # beyond the context with 12
    ]
    data = read_questions(write_set(4, extra=extra))
    with pytest.raises(PocketVLMError, match=r"set.jsonl line 6: is not JSON .*: correct the line"):
        evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline())
    evaluation = evaluate(data, asked, EXACT, tmp_path / "b.jsonl", Inline(), on_broken="skip")
    assert [q.line for q in evaluation.questions] == [1, 2, 3, 4]
    reasons = {item.line: item.reason for item in evaluation.skipped}
    assert list(reasons) == [5, 6, 7, 8]
    assert "not a picture" in reasons[5]
    assert "missing.png cannot be read" in reasons[7]
    assert "context" in reasons[8]
    assert all(
        [reply.line for reply in answered.replies] == [1, 2, 3, 4]
        for answered in evaluation.answered
    )
    again = evaluate(
        data, asked, EXACT, tmp_path / "b.jsonl", Inline(), on_broken="skip", resume=True
    )
    assert (texts(again), again.skipped) == (texts(evaluation), evaluation.skipped)
    sound = read_questions(write_set(4, name="sound.jsonl", extra=[extra[0]]))
    with pytest.raises(PocketVLMError, match=r"sound.jsonl line 5: .*text.png is not a picture"):
        evaluate(sound, asked, EXACT, tmp_path / "c.jsonl", Inline())


def test_a_question_that_the_metric_cannot_score_is_found_before_anything_is_asked(
    asked, write_set, tmp_path
):
    data = read_questions(write_set())
    with pytest.raises(PocketVLMError, match="line 1: metric yesno-f1 expects"):
        evaluate(data, asked, METRICS["yesno-f1"], tmp_path / "a.jsonl", Inline(), on_broken="skip")
    assert not (tmp_path / "a.jsonl").exists()


def test_another_artifact_is_asked_and_held_against(artifact_dir, asked, write_set, tmp_path):
    write_artifact(tmp_path / "other", budgets=(12,), seed=1)
    held = against(str(tmp_path / "other"), asked, workers=1)
    data = read_questions(write_set(20))
    evaluation = evaluate(
        data, [*asked, *held.subjects], EXACT, tmp_path / "a.jsonl", Inline(), max_new_tokens=2
    )
    # What the other says first is what is expected from now on, so that it is always right.
    replies = {
        (a.subject.folder, a.case.budget): {r.line: r.text for r in a.replies}
        for a in evaluation.answered
    }
    other = replies[str((tmp_path / "other").resolve()), 12]
    right = [dataclasses.replace(q, answers=(other[q.line],)) for q in evaluation.questions]
    summary = summarise(dataclasses.replace(evaluation, questions=right), held.of(evaluation))
    by_name = {(s.answered.subject.folder, s.answered.case.budget): s for s in summary.scores}
    assert len(by_name) == 6
    theirs = by_name[str((tmp_path / "other").resolve()), 12]
    assert (theirs.headline.value, theirs.baseline) == (1.0, None)
    ours = by_name[str(artifact_dir.resolve()), 12]
    same = sum(
        replies[str(artifact_dir.resolve()), 12][q.line] == other[q.line]
        for q in evaluation.questions
    )
    assert ours.headline.value == pytest.approx(same / 20)
    assert ours.baseline[1].estimate.value == pytest.approx(same / 20 - 1)
    assert (ours.baseline[1].only_here, ours.baseline[1].only_there) == (0, 20 - same)
    assert to_dict(summary)["results"][0]["baseline"]["budget"] == 12
    with pytest.raises(PocketVLMError, match="is the artifact that is evaluated"):
        against(str(artifact_dir), asked, workers=1)


def test_tags_and_baseline_are_of_the_right_questions(asked, write_set, tmp_path):
    evaluation = evaluate(
        read_questions(write_set(6)), asked, EXACT, tmp_path / "a.jsonl", Inline(), max_new_tokens=2
    )
    first = {reply.line: reply.text for reply in evaluation.answered[0].replies}
    # Right are all of the first case's answers to the odd questions, and none to the even.
    right = [
        dataclasses.replace(q, answers=(first[q.line] if "odd" in q.tags else "x y",))
        for q in evaluation.questions
    ]
    summary = summarise(dataclasses.replace(evaluation, questions=right))
    whole = summary.scores[0]
    assert (whole.headline.value, whole.baseline) == (0.5, None)
    assert {tag: (n, figures["accuracy"].value) for tag, (n, figures) in whole.tags.items()} == {
        "even": (3, 0.0),
        "odd": (3, 1.0),
    }
    assert whole.mean_over_tags == 0.5
    assert all(score.baseline[0] is whole.answered for score in summary.scores[1:])


def test_a_method_that_reads_the_question_selects_for_each(write_set, tmp_path, monkeypatch):
    """The tower sees each picture once, whatever is asked of it and at whichever budget."""
    root, encoded, encode = tmp_path / "artifact", [], VisionEncoder.encode
    give_selectors(root, write_artifact(root, budgets=(12, 6)), (12, 6))

    def counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    data = read_questions(write_set())
    cases = sweep(Artifact.open(root).manifest, budgets=[12, 6, 3], threads=[1])
    with monkeypatch.context() as patched:
        patched.setattr(VisionEncoder, "encode", counted)
        evaluation = evaluate(
            data,
            subjects(root, Artifact.open(root), cases),
            EXACT,
            tmp_path / "a.jsonl",
            Inline(),
            max_new_tokens=5,
        )
    assert encoded == [1, 1, 1]
    vlm = VLM.load(root, budget=12, settings=EngineSettings(threads=1))
    for budget in (12, 6, 3):
        for question in data.questions:
            answer = vlm.generate(
                question.text,
                list(question.images),
                budget=budget,
                sampling=Sampling(max_new_tokens=5),
            )
            assert texts(evaluation)[budget, question.line] == answer.text.strip()
