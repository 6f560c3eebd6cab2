"""Knows which work is disturbed, and what has to be true of its files afterwards."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvlm import VLM, Artifact, EngineSettings
from pocketvlm.cli import main
from support.npm_archives import ENTRIES, archive, integrity
from support.tiny_artifact import write_artifact

QUESTIONS = 4


@dataclass(frozen=True)
class Scenario:
    """Some work in a folder.

    Attributes:
        prepare: writes what the work needs, in an empty folder.
        work: does it, in the folder that is the current one; ended by SystemExit or an error.
        again: does it once more, after it was cut short.
        state: what lies at the destination: a word where it is whole, old or absent, else an error
            is raised.
        result: figures of a finished work that must be those of one that nothing disturbed.
        heavy: whether it needs torch.
    """

    prepare: Callable[[], None]
    work: Callable[[], None]
    again: Callable[[], None]
    state: Callable[[], str]
    result: Callable[[], object]
    heavy: bool = False


def _command(*words: object) -> None:
    main.main([str(word) for word in words], prog_name="pocketvlm")


def _finished(work: Callable[[], None]) -> None:
    """Do what ends as a command does, and go on."""
    try:
        work()
    except SystemExit as ended:
        if ended.code:
            raise


def _write_pictures() -> None:
    rows = []
    for number in range(QUESTIONS):
        noise = np.random.default_rng(number // 2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"{number // 2}.png")
        row = {"image": f"{number // 2}.png", "question": f"what is {number}?", "answers": ["red"]}
        rows.append(json.dumps(row))
    Path("set.jsonl").write_text("".join(f"{row}\n" for row in rows))


def _write_tiny() -> None:
    write_artifact(Path("artifact"), budgets=(6, 12))
    _write_pictures()


def _artifact_state(place: str = "out") -> str:
    """The budgets of a folder that is a sound artifact, each file read."""
    if not os.path.lexists(place):
        return "absent"
    manifest = Artifact.open(place, "full").manifest
    return f"budgets {manifest.pruning.budgets}"


def _artifact_result(place: str = "out") -> object:
    files = Artifact.open(place, "full").manifest.files
    return {name: (entry.bytes, entry.sha256) for name, entry in files.items()}


def _text_state(*names: str) -> Callable[[], str]:
    """Files of text that are whole: JSON where the name says so."""

    def state() -> str:
        for name in names:
            if not Path(name).exists():
                continue
            text = Path(name).read_text(encoding="utf-8")
            assert text.endswith("\n") or not name.endswith(".json"), f"{name} is cut off"
            if name.endswith(".json"):
                json.loads(text)
        return " ".join(name for name in names if Path(name).exists()) or "absent"

    return state


# Exports.

_CHECKPOINT = "checkpoint"


def _write_checkpoint() -> None:
    from make_checkpoint import PRESETS, make_checkpoint

    make_checkpoint(PRESETS["tiny-llama"], Path(_CHECKPOINT))


def _export(*more: object) -> None:
    from faults.tracing import traces_shared

    with traces_shared():
        words = ["--decoder-precision=fp32", "--vision-precision=fp32", *more]
        _command("export", _CHECKPOINT, "-o", "out", *words)


def _write_old_export() -> None:
    _write_checkpoint()
    _finished(lambda: _export("--budget=18"))


def _new_or(old: str) -> Callable[[], str]:
    def state() -> str:
        now = _artifact_state()
        assert now in ("budgets (9,)", old), now
        return now

    return state


# Answers that are kept in a file, and what comes of them.


def _answers(path: str) -> list[str]:
    """What a journal says, times left out; no question twice."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    keys = [(row["budget"], row["line"]) for row in lines[1:]]
    assert len(set(keys)) == len(keys), "a question is counted twice"
    return sorted(
        json.dumps({k: v for k, v in row.items() if k != "ttft_ms"}, sort_keys=True)
        for row in lines
    )


def _evaluate(*more: str) -> None:
    words = ("--data=set.jsonl", "--threads=1", "--max-new-tokens=3", "--answers=a.jsonl")
    _command("evaluate", "artifact", *words, "--json=out.json", *more)


def _evaluate_again() -> None:
    _evaluate(*(["--resume"] if Path("a.jsonl").exists() else []))


def _evaluated() -> object:
    data = json.loads(Path("out.json").read_text())
    figures = [{k: v for k, v in row.items() if k != "ttft_ms"} for row in data["results"]]
    return figures, _answers("a.jsonl")


def _tune(*more: str) -> None:
    """With times that are made up: ten milliseconds a token."""
    from pocketvlm_measure.profiler.once import Sample
    from pocketvlm_measure.tune import measured

    measured.run_once = lambda _folder, case, _question, _warmup: Sample(
        {"ttft": 10.0 * case.budget}, 12, case.budget, 9, 8, 4, 10**8, 0.0
    )
    words = ("--data=set.jsonl", "--threads=1", "--max-new-tokens=3", "--answers=a.jsonl")
    outputs = ("--budget=12,6", "--write-target=out.toml", "--export=out")
    _command("tune", "artifact", *words, "--max-loss=100", "--time=1h", *outputs, *more)


def _tune_again() -> None:
    if Path("out").exists():  # put there before the fault
        assert _artifact_state().startswith("budgets")
        Path("out").rename("taken")
    _tune(*(["--resume"] if Path("a.jsonl").exists() else []))


def _tuned() -> object:
    turns = [json.loads(line) for line in Path("a.times.jsonl").read_text().splitlines()[1:]]
    numbers = [row["turn"] for row in turns]
    assert sorted(set(numbers)) == sorted(numbers), "a turn is counted twice"
    return _artifact_result(), _answers("a.jsonl"), turns


# What processes leave for each other.


def _ask() -> None:
    words = ("--image=0.png", "--prompt=what is it?", "--feature-cache=features", "--threads=1")
    _command("run", "artifact", *words)


def _features_state() -> str:
    """Whatever lies in the cache, answers are those of a model that has none."""
    settings = EngineSettings(threads=1)
    plain = VLM.load("artifact", settings=settings)
    cached = VLM.load("artifact", feature_cache="features", settings=settings)
    texts = [each.generate("what is it?", images=["0.png"]).text for each in (plain, cached)]
    assert texts[0] == texts[1]
    return f"{len(list(Path('features').glob('*.safetensors')))} files"


def _features_result() -> object:
    return sorted((path.name, path.stat().st_size) for path in Path("features").iterdir())


def _verify() -> None:
    _command("verify", "artifact")


def _remembered_state() -> str:
    for table in Path("cache/pocketvlm").glob("*.json"):
        json.loads(table.read_text())
    return _artifact_state("artifact")


def _remembered_result() -> object:
    table = json.loads(Path("cache/pocketvlm/verified.json").read_text())
    return sorted(Path(path).name for path in table)


# Pages and sets.


def _write_registry() -> None:
    """Archives of small packages, and a page whose lock file pins them."""
    from pocketvlm.web import libraries, page_folder

    packages = {}
    Path("registry").mkdir()
    Path("page").mkdir()
    for name, entries in ENTRIES.items():
        data = archive({f"package/{entry}": f"{name} {entry}".encode() for entry in entries})
        file = f"{name.removeprefix('@').replace('/', '-')}-1.2.3.tgz"
        (Path("registry") / file).write_bytes(data)
        packages[f"node_modules/{name}"] = {"version": "1.2.3", "integrity": integrity(data)}
    for path in page_folder().iterdir():
        if path.is_file() and path.name != libraries.LOCK:
            (Path("page") / path.name).write_bytes(path.read_bytes())
    (Path("page") / libraries.LOCK).write_text(json.dumps({"packages": packages}))
    Image.new("RGB", (8, 8)).save("cat.png")


def _web(*more: str) -> None:
    from pocketvlm.web import libraries

    libraries.page_folder = lambda: Path("page").absolute()
    words = ("-o", "site", "--registry", "registry", "--sample", "cat.png", "--overwrite")
    _command("web", *words, *more)


def _write_old_site() -> None:
    _write_registry()
    _finished(lambda: _web("--question", "old?"))


def _site_state() -> str:
    if not os.path.lexists("site"):
        return "absent"
    site = json.loads(Path("site/site.json").read_text())
    assert Path("site/samples/cat.png").read_bytes() == Path("cat.png").read_bytes()
    for name, entries in ENTRIES.items():
        if name != "onnxruntime-web":
            continue
        for entry in entries[:6]:
            (found,) = Path("site/lib").rglob(Path(entry).name)
            assert found.read_text() == f"{name} {entry}"
    return str(site["questions"])


def _site_result() -> object:
    return {
        path.relative_to("site").as_posix(): path.read_bytes()
        for path in Path("site").rglob("*")
        if path.is_file()
    }


def _write_benchmark() -> None:
    question = {"question": "Is it overcast?", "imageId": "1", "isBalanced": True, "answer": "no"}
    question["types"] = {"detailed": "weatherVerify", "semantic": "global", "structural": "verify"}
    Path("gqa.json").write_text(json.dumps({"201": question}))
    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/1.jpg")
    Path("out.jsonl").write_text('{"old": true}\n')


def _questions() -> None:
    _command("questions", "gqa", "gqa.json", "--images=images", "-o", "out.jsonl")


def _questions_state() -> str:
    (row,) = Path("out.jsonl").read_text().splitlines()
    return "old" if "old" in json.loads(row) else "new"


def _inspect() -> None:
    _command("inspect", "artifact", "--image=0.png", "--overlay=out.png")


def _overlay_state() -> str:
    if not Path("out.png").exists():
        return "absent"
    Image.open("out.png").load()
    return "whole"


SCENARIOS = {
    "export": Scenario(
        _write_checkpoint,
        lambda: _export("--budget=9"),
        lambda: _export("--budget=9", "--overwrite"),
        _new_or("absent"),
        _artifact_result,
        heavy=True,
    ),
    "export over another": Scenario(
        _write_old_export,
        lambda: _export("--budget=9", "--overwrite"),
        lambda: _export("--budget=9", "--overwrite"),
        _new_or("budgets (18,)"),
        _artifact_result,
        heavy=True,
    ),
    # The exporter measures the self-test of a choice anew.
    "tune": Scenario(_write_tiny, _tune, _tune_again, _artifact_state, _tuned, heavy=True),
    "evaluate": Scenario(
        _write_tiny, _evaluate, _evaluate_again, _text_state("out.json"), _evaluated
    ),
    "feature cache": Scenario(_write_tiny, _ask, _ask, _features_state, _features_result),
    "verify": Scenario(_write_tiny, _verify, _verify, _remembered_state, _remembered_result),
    "web": Scenario(
        _write_registry, lambda: _web("--question", "new?"), lambda: _web("--question", "new?"),
        _site_state, _site_result,
    ),
    "web over another": Scenario(
        _write_old_site, lambda: _web("--question", "new?"), lambda: _web("--question", "new?"),
        _site_state, _site_result,
    ),
    "questions": Scenario(
        _write_benchmark, _questions, _questions, _questions_state,
        lambda: Path("out.jsonl").read_text(),
    ),
    "inspect": Scenario(
        _write_tiny, _inspect, _inspect, _overlay_state, lambda: Path("out.png").read_bytes()
    ),
}  # fmt: skip
