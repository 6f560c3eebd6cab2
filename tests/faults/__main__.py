"""Tries faults at the operations of scenarios: ``python -m faults``, started with the shim by
itself. Prints how many points were tried, and exits with 1 where one went wrong."""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from faults import shim

_OF_EXPORTS = (
    "make_checkpoint",
    "pocketvlm_export.candidates",
    "pocketvlm_export.cli",
    "pocketvlm_export.pipeline",
    "pocketvlm_export.selftest",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "faults.tracing",
)
_IMPORTED = (
    "onnxruntime",
    "scipy.stats",
    "tokenizers",
    "safetensors.numpy",
    "pocketvlm.web.sites",
    *(f"pocketvlm.cli.{name}" for name in ("inspect", "verify", "web")),
    *(f"pocketvlm_measure.cli.{name}" for name in ("evaluate", "questions", "tune")),
    *(f"pocketvlm_measure.evaluation.{name}" for name in ("run", "summary", "tables", "baselines")),
    *(f"pocketvlm_measure.tune.{name}" for name in ("measured", "search", "tables", "written")),
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all if none is named")
    parser.add_argument("--fault", action="append", choices=list(shim.FAULTS))
    parser.add_argument("--draw", type=int, metavar="N", help="of each scenario and fault, not all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--light", action="store_true", help="without those that need torch")
    parser.add_argument("--verbose", action="store_true", help="a line for each point")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def _started_with_it() -> None:
    """Begin this program again with the shim in it."""
    folder = Path(tempfile.gettempdir()) / f"pocketvlm-faults-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = shim.compiled(folder)
    environment = {**shim.environment(library), "OMP_NUM_THREADS": "1"}
    # Fixed, as nothing else is different from one child to the next.
    environment |= {"PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}
    words = [sys.executable, "-m", "faults", *sys.argv[1:]]
    os.execve(sys.executable, words, environment)


def _try_all(arguments: argparse.Namespace, base: Path) -> dict[str, object]:
    from faults.harness import Bench
    from faults.scenarios import SCENARIOS

    names = arguments.scenarios or [
        name for name, one in SCENARIOS.items() if not (arguments.light and one.heavy)
    ]
    heavy = any(SCENARIOS[name].heavy for name in names)
    # Once, and not in every child: nor do these read sources that have changed meanwhile.
    for module in (*_IMPORTED, *(_OF_EXPORTS if heavy else ())):
        import_module(module)

    drawn = random.Random(arguments.seed)
    counts: dict[str, dict[str, object]] = {}
    wrong: list[str] = []
    for name in names:
        began = time.monotonic()
        bench = Bench(name, SCENARIOS[name], base / name.replace(" ", "-"), shim.Shim())
        tried: Counter[str] = Counter()
        for fault in arguments.fault or shim.FAULTS:
            numbers = list(range(bench.operations))
            if arguments.draw is not None:
                numbers = sorted(drawn.sample(numbers, min(arguments.draw, len(numbers))))
            for number in numbers:
                if arguments.verbose:
                    print(f"{time.monotonic() - began:.1f} s {name} {fault} {number}", flush=True)
                problems = bench.tried(number, fault)
                tried[fault] += 1
                wrong += problems
                for problem in problems:
                    print(problem, flush=True)
        counts[name] = {"operations": bench.operations, "tried": dict(tried)}
        points = ", ".join(f"{fault} {count}" for fault, count in tried.items())
        seconds = time.monotonic() - began
        print(f"{name}: {bench.operations} operations; tried {points}; {seconds:.0f} s", flush=True)
    return {"scenarios": counts, "wrong": wrong}


def main() -> int:
    """Try what was asked for."""
    arguments = _arguments()
    if problem := shim.missing():
        print(f"no fault is tried: {problem}")
        return 0
    if not hasattr(shim.ctypes.CDLL(None), "faults_arm"):
        _started_with_it()
    with tempfile.TemporaryDirectory(prefix="faults-") as base:
        figures = _try_all(arguments, Path(base).resolve())
    total = sum(sum(row["tried"].values()) for row in figures["scenarios"].values())
    print(f"{total} points, {len(figures['wrong'])} went wrong")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
