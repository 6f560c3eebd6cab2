"""What ten thousand answers do to a process: ``PYTHONPATH=tools python -m long_runs``.

Memory and open files over 10,000 answers on each engine; a context filled to its last token and a
hundred pictures in a prompt; 5,000 questions through ``evaluate --workers 2`` that is killed ten
times; 2,000 requests to the server. What lies in BUILD is not made again, so that an interrupted
run goes on; ``--parts`` does some of it. It ends with 1 where something is not as it should be.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from demo_questions.__main__ import write_set
from long_runs.filled import Broken, fill
from long_runs.killed import Evaluation, kill_often
from long_runs.memory import Sample, growth, read_samples
from long_runs.served import ask_server
from pocketvlm.cli.lists import Comma
from pocketvlm.files import replace_file
from pocketvlm_export import ExportOptions, export

_PATH = click.Path(path_type=Path)
_ENGINES = ("onnx", "llama.cpp")
_BUDGET = 36
_SAMPLES = 500  # of each run

Row = tuple[str, str]  # what was done, and what came out


@dataclass(frozen=True)
class Run:
    """How much is done, and where.

    Attributes:
        build: everything that is written.
        artifact: the demo, for both engines.
        answers: of each engine.
        questions: of the evaluation.
        kills: of the evaluation.
        requests: to the server.
    """

    build: Path
    artifact: Path
    answers: int
    questions: int
    kills: int
    requests: int


def answered(run: Run, engine: str) -> list[Row]:
    """Ask one process, and read its samples."""
    out = run.build / f"answers-{engine}.jsonl"
    every = max(1, run.answers // _SAMPLES)
    subprocess.run(
        [
            *(sys.executable, "-m", "long_runs.answers", str(run.artifact), str(out)),
            *("--engine", engine, "--answers", str(run.answers), "--every", str(every)),
        ],
        # Python's own memory is then part of the heap that is counted.
        env={**os.environ, "PYTHONMALLOC": "malloc"},
        check=True,
    )
    samples, counts = read_samples(out)
    if sum(counts.values()) != run.answers:
        raise Broken(f"{sum(counts.values())} of {run.answers} answers")
    name = f"{run.answers} answers, {engine}"
    heap, pages = growth(samples, "heap"), growth(samples, "uss")
    verdict = "flat" if heap.is_flat else "NOT FLAT"
    return [
        (f"{name}: heap per answer", f"{heap}, {verdict}"),
        (f"{name}: USS per answer", f"{pages}; {samples[-1].uss >> 20} MiB in the end"),
        _files(name, samples),
    ]


def _files(name: str, samples: Sequence[Sample]) -> Row:
    first, last = samples[len(samples) // 5].descriptors, samples[-1].descriptors
    if last > first:
        raise Broken(f"{last - first} descriptors were lost")
    return f"{name}: open files", f"{first}, then {last}"


def filled(run: Run) -> list[Row]:
    """Fill the context of every engine."""
    return [
        (f"context full, {engine}", line)
        for engine in engines()
        for line in fill(run.artifact, engine)
    ]


def evaluated(run: Run) -> list[Row]:
    """Evaluate, undisturbed and killed."""
    folder = run.build / "evaluation"
    data = folder / "questions" / "questions.jsonl"
    if not data.exists():
        write_set(data.parent, "test", run.questions, per_picture=5)
    options = ["--workers", "2", "--threads", "1", "--budget", str(_BUDGET)]
    whole, killed = (
        Evaluation(run.artifact, data, folder / f"{name}.jsonl", options)
        for name in ("undisturbed", "killed")
    )
    killed.answers.unlink(missing_ok=True)
    return [("evaluate --workers 2", str(kill_often(whole, killed, run.kills)))]


def served(run: Run) -> list[Row]:
    """Ask a server, and look at both of its processes."""
    every = max(1, run.requests // 100)
    asked = ask_server(run.artifact, run.build / "server.log", run.requests, every)
    name = f"{run.requests} requests"
    rows = [(f"{name}: statuses", ", ".join(f"{n} of {s}" for s, n in asked.statuses.items()))]
    for process, samples in (("parent", asked.parent), ("child", asked.child)):
        rows += [
            (
                f"{name}: USS per request, {process}",
                f"{growth(samples, 'uss')}; {samples[-1].uss >> 20} MiB in the end",
            ),
            _files(f"{name}, {process}", samples),
        ]
    return rows


def engines() -> list[str]:
    """Those that are installed."""
    has_llama = importlib.util.find_spec("llama_cpp") is not None
    return [engine for engine in _ENGINES if engine != "llama.cpp" or has_llama]


_PARTS: dict[str, Callable[[Run], list[Row]]] = {
    "onnx": lambda run: answered(run, "onnx"),
    "llama.cpp": lambda run: answered(run, "llama.cpp"),
    "context": filled,
    "evaluate": evaluated,
    "server": served,
}


def _part(name: str) -> str:
    if name not in _PARTS:
        raise ValueError(name)
    return name


@click.command(help=__doc__)
@click.option("--build", type=_PATH, default=Path("build/long-runs"), show_default=True)
@click.option("--artifact", type=_PATH, help="The demo, exported for both engines; else it is.")
@click.option("--parts", type=Comma("parts", _part), default=tuple(_PARTS), help="Of the five.")
@click.option("--answers", default=10_000, show_default=True, help="Of each engine.")
@click.option("--questions", default=5_000, show_default=True, help="Of the evaluation.")
@click.option("--kills", default=10, show_default=True, help="Of the evaluation.")
@click.option("--requests", default=2_000, show_default=True, help="To the server.")
def main(
    build: Path,
    artifact: Path | None,
    parts: tuple[str, ...],
    answers: int,
    questions: int,
    kills: int,
    requests: int,
) -> None:
    """Do what is not done yet, and print one table."""
    build.mkdir(parents=True, exist_ok=True)
    run = Run(build, artifact or _exported(build), answers, questions, kills, requests)
    results, broken = build / "results.json", False
    done: dict[str, list[Row]] = json.loads(results.read_text()) if results.exists() else {}
    for part in parts:
        if part in done or (part in _ENGINES and part not in engines()):
            continue
        click.echo(f"{part} ...", err=True)
        try:
            done[part] = _PARTS[part](run)
        except (Broken, subprocess.CalledProcessError) as error:
            broken = True
            click.echo(f"{part}: {error}", err=True)
            continue
        replace_file(results, json.dumps(done, indent=1).encode())
    rows = [row for part in parts for row in done.get(part, [])]
    width = max((len(name) for name, _ in rows), default=0)
    for name, figure in rows:
        click.echo(f"{name:{width}}  {figure}")
    sys.exit(1 if broken or any("NOT FLAT" in figure for _, figure in rows) else 0)


def _exported(build: Path) -> Path:
    folder = build / "demo"
    if not folder.exists():
        both = "both" if "llama.cpp" in engines() else "onnx"
        export("demo", folder, ExportOptions(budgets=(_BUDGET,), decoder=both))
    return folder


if __name__ == "__main__":
    main()
