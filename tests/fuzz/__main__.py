"""``python -m fuzz TARGET NUMBER`` does one input again and says what came of it; without arguments
inputs of every target are used, and a table is printed. ``make fuzz`` is that."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz.harness import Result, children_seconds, fuzz, supported
from fuzz.table import heading, line, words
from fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "target", nargs="*", help="targets, or one target and the number of an input"
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="of each target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument(
        "--out", type=Path, default=Path("build/fuzz"), help="journals; runs go on from them"
    )
    parser.add_argument(
        "--atheris", type=int, metavar="SECONDS", help="let atheris choose inputs by coverage"
    )
    options = parser.parse_args()
    if not supported():
        print("fuzzing needs Linux")
        return 0
    if len(options.target) == 2 and options.target[1].isdecimal():
        return again(options.target[0], int(options.target[1]))
    names = options.target or list(TARGETS)
    if options.atheris:
        return max(guided(name, options.atheris, options.out) for name in names)
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in names:
        journal = options.out / f"{name}.jsonl"
        before = children_seconds()
        result = fuzz(
            name,
            options.inputs,
            first=options.first,
            journal=journal,
            progress=_Progress(options.inputs),
        )
        results.append((result, children_seconds() - before))
        print(file=sys.stderr)
    print(heading())
    for result, spent in results:
        print(line(result, spent))
    for result, _ in results:
        print(words(result), end="")
    return int(any(result.findings for result, _ in results))


def again(target: str, number: int) -> int:
    """Do one input again; its folder stays."""
    from fuzz.worker import Session

    root = Path(tempfile.mkdtemp(prefix="pocketvlm-fuzz-"))
    os.chdir(root)
    session = Session(TARGETS.get(target, target), root)
    outcome, seconds, taken, said = session.attempt(number)
    print(f"{outcome} in {seconds} s, {taken} MB: {said}\nits folder: {root / 'box'}")
    return int(outcome not in ("accepted", "refused"))


def guided(target: str, seconds: int, out: Path) -> int:
    """Have atheris choose the inputs of a target, in a process of its own."""
    corpus = out / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "fuzz.guided",
        TARGETS.get(target, target),
        str(corpus),
        str(seconds),
    ]
    return subprocess.run(command, check=False).returncode


class _Progress:
    """A line that says how far it is, every few seconds."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._next = 0.0

    def __call__(self, result: Result) -> None:
        count = result.counts.total()
        if time.monotonic() < self._next and count < self._inputs:
            return
        self._next = time.monotonic() + 2
        text = f"{result.target}: {count} of {self._inputs} inputs, {len(result.findings)} findings"
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
