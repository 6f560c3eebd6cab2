"""Knows how a profile is taken: configurations in turns, a fresh process for each run, nothing lost
on an interrupt."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pocketvlm.artifact import Artifact, pick_graph
from pocketvlm.errors import EngineError, error_from_dict
from pocketvlm.limits import whole
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import Machine
from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.profiler.questions import Question, check_question
from pocketvlm_measure.profiler.result import Profile, Result
from pocketvlm_measure.profiler.selection import Selection
from pocketvlm_measure.progress import progress
from pocketvlm_measure.turns import take_turns

SELECTION_RUNS = 5  # of each vision graph with its nodes timed
# -P: no module is taken from the folder that a person happens to be in.
_CHILD = (sys.executable, "-P", "-m", "pocketvlm_measure.profiler.once")


def profile(
    artifact: Artifact,
    cases: Sequence[Case],
    question: Question,
    *,
    repeat: int = 7,
    warmup: int = 1,
    memory_limit: int | None = None,
    after_turn: Callable[[Profile], None] = lambda _: None,
) -> Profile:
    """Measure every case ``repeat`` times in interleaved turns.

    Args:
        artifact: an opened artifact.
        cases: see `sweep`.
        question: what every run answers.
        repeat: runs of each case that count.
        warmup: answers in each run's process before the one that counts.
        memory_limit: MB (10^6 bytes) above which `Profile.warnings` warns; None or 0 means no
            limit.
        after_turn: called after each turn with what has been measured so far; an interrupt loses no
            more than a run.

    Returns:
        What was measured; on an interrupt (Ctrl-C) what was measured until then, with
        ``interrupted`` set.

    Raises:
        PocketVLMError: the question is refused, or a run failed; ``after_turn`` was called with
            what had been measured.
    """
    repeat, warmup = whole(repeat, "repeat", least=1), whole(warmup, "warmup", least=0)
    if memory_limit is not None:
        memory_limit = whole(memory_limit, "memory_limit", least=0)
    check_question(artifact, question, max(case.budget for case in cases))
    folder = str(artifact.root.resolve())
    results = {case: Result(case, question.shown, artifact.manifest) for case in cases}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    report = Profile(
        str(artifact.root),
        artifact.manifest,
        Machine.look(),
        question,
        repeat,
        warmup,
        started,
        memory_limit=memory_limit,
    )
    done = 0
    try:
        selections = _selections(folder, artifact, cases, question)
        for turn, case, sample in take_turns(
            cases, lambda case: run_once(folder, case, question, warmup), repeat
        ):
            if turn > done:
                done = turn
                after_turn(report)
            result = results[case]
            result.samples.append(sample)
            result.selection = selections[case]
            report.results = [sampled for sampled in results.values() if sampled.samples]
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        if report.results:
            after_turn(report)
    return report


def _selections(
    folder: str, artifact: Artifact, cases: Sequence[Case], question: Question
) -> dict[Case, Selection | None]:
    """What selection costs in each case; cases with the same vision graph and threads share one
    measurement."""
    graphs = {
        case: (pick_graph(artifact.manifest, case.budget), case.vision_precision, case.threads)
        for case in cases
    }
    job = {"task": "select", "folder": folder, "runs": SELECTION_RUNS}
    job["question"] = dataclasses.asdict(question)
    measured: dict[tuple[int, str, int | None], Selection | None] = {}
    for case, graph in progress(graphs.items(), desc="timing nodes", leave=False):
        if graph not in measured:
            times = _ask({**job, "case": dataclasses.asdict(case)}, case)
            measured[graph] = times and Selection(tuple(times["select"]), tuple(times["nodes"]))
    return {case: measured[graph] for case, graph in graphs.items()}


def run_once(folder: str, case: Case, question: Question, warmup: int) -> Sample:
    """One run in a process of its own, see `answer_once`.

    Raises:
        PocketVLMError: it was refused there, or the process died.
    """
    job = {"task": "answer", "folder": folder, "case": dataclasses.asdict(case), "warmup": warmup}
    return Sample(**_ask({**job, "question": dataclasses.asdict(question)}, case))


def _ask(job: dict[str, Any], case: Case) -> Any:
    """The result of a job done in a process of its own.

    Raises:
        PocketVLMError: the job was refused there, with an error of the same class.
        EngineError: the process died or failed.
    """
    # Ctrl-C reaches the child too; the traceback that it writes is captured and dropped.
    child = subprocess.run(
        _CHILD, input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if child.returncode < 0:
        raise EngineError(
            f"the process that measured {case} was ended by signal {-child.returncode}, perhaps "
            "because memory ran out",
            advice="leave this configuration out",
        )
    if child.returncode:
        last_line = next(reversed(child.stderr.strip().splitlines()), "no message")
        raise EngineError(
            f"the process that measured {case} failed ({last_line})",
            advice="leave this configuration out",
        )
    answer = json.loads(child.stdout.splitlines()[-1])
    if refusal := answer.get("refusal"):
        raise error_from_dict({**refusal, "found": f"{case}: {refusal['found']}"})
    return answer["result"]
