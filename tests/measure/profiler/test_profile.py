"""`pocketvlm profile` on real runs: what it measures and where that goes, what it refuses, what an
interrupt leaves."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling, cli
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.text.prompts import Prompter
from pocketvlm_measure.cases import Case, sweep
from pocketvlm_measure.profiler import measure
from pocketvlm_measure.profiler.measure import profile
from pocketvlm_measure.profiler.questions import Question, made_up_prompt
from pocketvlm_measure.profiler.result import STAGES
from pocketvlm_measure.profiler.selection import read_events
from support.processes import heed_interrupts
from support.tiny_artifact import read_manifest, write_artifact, write_manifest
from support.web_page import Page

PROMPT = "what is <b>in</b> the picture?"
LLAMA_BENCH = {
    "build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "n_threads", "type_k", "type_v",  # noqa: E501
    "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns",  # noqa: E501
    "samples_ts",
}  # fmt: skip


def pocketvlm(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="pocketvlm")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One sweep of three budgets, from two graphs, with everything written that can be."""
    folder = tmp_path_factory.mktemp("profile")
    write_artifact(folder / "artifact", budgets=(6, 12))
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    outputs = [part for name in ("x.jsonl", "x.csv", "x.md") for part in ("-o", folder / name)]
    result = pocketvlm(
        "profile", folder / "artifact", "--image", folder / "photo.png", "--prompt", PROMPT, "--budget", "3,12,6",  # noqa: E501
        "--threads", 1, "--repeat", 2, "--warmup", 0, "--new-tokens", 4, "--json", "--report", folder / "x.html",  # noqa: E501
        *outputs,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def by_case(printed):
    """{budget: {stage: row}}."""
    by_budget = {}
    for row in printed["results"]:
        by_budget.setdefault(row["budget"], {})[row["stage"]] = row
    return by_budget


def test_every_stage_of_every_budget_is_there_with_every_sample(measured):
    cases = by_case(measured[1])
    assert list(cases) == [12, 6, 3]
    for budget, stages in cases.items():
        assert tuple(stages) == STAGES
        for stage, row in stages.items():
            assert len(row["samples_ns"]) == (measure.SELECTION_RUNS if stage == "select" else 2)
            assert row["median_ns"] == pytest.approx(np.median(row["samples_ns"]), abs=1)
            assert row["p95_ns"] == pytest.approx(np.percentile(row["samples_ns"], 95), abs=1)
            assert row["stddev_ns"] == pytest.approx(np.std(row["samples_ns"], ddof=1), abs=1)
            assert (row["visual_tokens_before"], row["visual_tokens_after"]) == (16, budget)
            assert (row["new_tokens"], row["n_threads"], row["decoder"]) == (4, 1, "onnx")


def test_samples_of_a_run_belong_together(measured):
    for stages in by_case(measured[1]).values():
        ns = {
            stage: np.array(row["samples_ns"]) for stage, row in stages.items() if stage != "select"
        }
        np.testing.assert_allclose(ns["total"], ns["ttft"] + ns["decode"], atol=2)
        assert (
            ns["ttft"] >= ns["preprocess"] + ns["vision"] + ns["embed"] + ns["prefill"] - 4
        ).all()
        assert all(samples.min() > 0 for samples in ns.values())
        assert 0 < stages["vision"]["select_share"] < 1


def test_tokens_and_bytes_are_those_of_the_prompt(measured):
    folder, printed = measured
    prompter = Prompter.from_artifact(Artifact.open(folder / "artifact"))
    for budget, stages in by_case(printed).items():
        tokens = len(prompter.encode(PROMPT, 1, budget))
        assert stages["prefill"]["n_prompt"] == stages["prefill"]["prompt_tokens"] == tokens
        assert (
            stages["decode"]["n_prompt"],
            stages["decode"]["n_gen"],
            stages["decode"]["n_depth"],
        ) == (0, 3, tokens)
        assert (
            stages["prefill"]["kv_bytes_prompt"] == tokens * 2 * 2 * 8 * 4
        )  # two layers, keys and values, float32
        rates = stages["decode"]["samples_ts"]
        np.testing.assert_allclose(rates, 3e9 / np.array(stages["decode"]["samples_ns"]), rtol=1e-5)
        # A Python with NumPy and ONNX Runtime takes some, this model next to nothing.
        assert all(20e6 < peak < 500e6 for peak in stages["ttft"]["samples_peak_memory_bytes"])


def test_the_files_say_what_json_says(measured):
    folder, printed = measured
    lines = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    assert lines == printed["results"]
    assert all(line.keys() >= LLAMA_BENCH for line in lines)
    with (folder / "x.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [list(row) for row in cells] == [list(line) for line in lines]
    assert [json.loads(row["samples_ns"]) for row in cells] == [
        line["samples_ns"] for line in lines
    ]
    tables = [
        line for line in (folder / "x.md").read_text().splitlines() if line.startswith("| 12 ")
    ]
    assert len(tables) == 2


def test_the_report_is_one_page_with_plots_and_kept_patches(measured):
    page = Page((measured[0] / "x.html").read_text())
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert sum(reference.startswith("data:image/svg") for reference in page.references) == 4
    assert (
        sum(reference.startswith("data:image/jpeg") for reference in page.references) == 3
    )  # one a budget
    assert not {"script", "link", "b"} & set(page.tags)
    assert PROMPT in page.text


def test_a_file_compared_with_itself(measured):
    file = measured[0] / "x.jsonl"
    result = pocketvlm("profile", "--compare", file, file, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [item["ratio"] for item in printed["results"]] == [pytest.approx(1.0)] * (
        3 * (len(STAGES) + 1)
    )
    verdicts = {item["stage"]: item["verdict"] for item in printed["results"]}
    assert verdicts["ttft"] == "too few samples"  # of two runs
    assert verdicts["select"] == "same within the spread"
    assert "too few samples" in pocketvlm("profile", "--compare", file, file).stdout


def test_a_terminal_gets_a_table_and_the_machine(measured):
    arguments = ["--budget", 6, "--repeat", 1, "--warmup", 0, "--new-tokens", 1]
    result = pocketvlm("profile", measured[0] / "artifact", *arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (head,) = [line.split() for line in lines if line.startswith("tokens  load")]
    assert head == ["tokens", *STAGES]
    assert "governor" in result.stdout
    assert "warning: few runs per configuration (1), so the spread is uncertain" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        ([], 2, "give either DIR"),
        (["DIR", "--compare", "a", "b"], 2, "give either DIR"),
        (["DIR", "--budget", "6,all"], 2, "cannot be combined"),
        (["DIR", "--budget", "6,,3"], 2, "comma-separated"),
        (["DIR", "--threads", "two"], 2, "comma-separated"),
        (["DIR", "--repeat", "0"], 2, "repeat"),
        (["DIR", "--budget", "17"], 1, "budget 17: expected 1..12"),
        (["DIR", "--budget", "13"], 1, "budget 13"),
        (["DIR", "--decoder", "llama.cpp"], 1, "llama.cpp"),
        (["DIR", "--decoder-precision", "int4"], 1, "int4"),
        (["DIR", "--vision-precision", "fp32,int8"], 1, "int8"),
        (["DIR", "--threads", "2,0"], 1, "threads=0"),
        (["DIR", "--new-tokens", "1000", "--repeat", "1"], 1, "context of 160"),
        (["DIR", "--image", "missing.png", "--repeat", "1"], 1, "missing.png"),
        (["DIR", "-o", "figures.txt"], 1, "expected .jsonl or .csv or .md"),
        (["DIR", "-o", "nowhere/x.jsonl"], 1, "no such folder: nowhere"),
        (["DIR", "--report", "nowhere/x.html"], 1, "no such folder: nowhere"),
        (["nowhere"], 1, "no such folder"),
        (["--compare", "nowhere.jsonl", "nowhere.jsonl"], 1, "nowhere.jsonl cannot be read"),
    ],
)
def test_refusals(artifact_dir, tmp_path, monkeypatch, arguments, exit_code, reason):
    monkeypatch.chdir(tmp_path)
    result = pocketvlm("profile", *(artifact_dir if word == "DIR" else word for word in arguments))
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert reason in result.stderr


def test_an_interrupt_keeps_what_was_measured(artifact_dir, tmp_path):
    kept = tmp_path / "x.jsonl"
    command = [
        "profile",
        artifact_dir,
        "--budget",
        "6,3",
        "--repeat",
        1000,
        "--warmup",
        0,
        "-o",
        kept,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketvlm", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 120
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {row["budget"] for row in rows} == {6, 3}
    assert all(row["interrupted"] for row in rows)
    assert "interrupted" in stdout
    assert "Traceback" not in stderr
    samples = len(next(row for row in rows if row["stage"] == "ttft")["samples_ns"])
    assert 1 <= samples < 1000


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "by signal 9, perhaps because memory ran out"),
        ("raise SystemExit('no room')", "failed .no room.: leave this configuration out"),
    ],
)
def test_a_run_that_dies_is_reported_and_earlier_ones_are_kept(
    artifact_dir, monkeypatch, program, reason
):
    artifact = Artifact.open(artifact_dir)
    cases = sweep(artifact.manifest, budgets=[6])
    answers, saved = [], []

    def second_answer_dies(command, **options):
        if json.loads(options["input"])["task"] == "answer":
            answers.append(command)
        if len(answers) == 2:
            command = (sys.executable, "-c", program)
        return subprocess.run(command, **options)

    monkeypatch.setattr(measure, "subprocess", SimpleNamespace(run=second_answer_dies))
    with pytest.raises(PocketVLMError, match=reason):
        profile(artifact, cases, Question("what?"), after_turn=saved.append)
    assert [len(result.samples) for result in saved[-1].results] == [1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ArtifactError", ArtifactError), ("RequestError", RequestError), ("Other", PocketVLMError)],
)
def test_a_refusal_in_the_measured_process_keeps_its_class(artifact_dir, monkeypatch, name, kind):
    fields = {"found": "this", "expected": "that", "advice": "do so", "setting": "threads"}
    refusal = json.dumps({"refusal": {"class": name, **fields}})
    monkeypatch.setattr(measure, "_CHILD", (sys.executable, "-c", f"print({refusal!r})"))
    artifact = Artifact.open(artifact_dir)
    with pytest.raises(PocketVLMError) as caught:
        profile(artifact, (cases := sweep(artifact.manifest, budgets=[6])), Question("what?"))
    assert type(caught.value) is kind
    assert caught.value.to_dict() == {
        "class": kind.__name__,
        **fields,
        "found": f"{cases[0]}: this",
    }


def test_the_measured_process_says_which_class_refused(artifact_dir):
    (artifact_dir / "pocketvlm.json").unlink()
    question = dataclasses.asdict(Question("what?"))
    job = {"task": "select", "folder": str(artifact_dir), "runs": 1, "question": question}
    case = dataclasses.asdict(Case(6, "onnx", "fp32", "fp32", 1))
    done = subprocess.run(
        measure._CHILD,
        input=json.dumps({**job, "case": case}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["refusal"]["class"] == "ArtifactError"


def test_answers_do_not_end_early(tmp_path):
    """All runs do the same work, whatever the model would say."""
    write_artifact(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    manifest["decoder"]["eos_token_ids"] = list(range(manifest["decoder"]["vocab"]))
    write_manifest(tmp_path / "a", manifest)
    assert (
        len(
            VLM.load(tmp_path / "a")
            .generate("what?", sampling=Sampling(max_new_tokens=5))
            .token_ids
        )
        == 1
    )
    artifact = Artifact.open(tmp_path / "a")
    measured = profile(
        artifact, sweep(artifact.manifest), Question("what?", new_tokens=5), repeat=1, warmup=0
    )
    assert measured.results[0].samples[0].new_tokens == 5


def test_prompts_made_up_have_the_tokens_asked_for(artifact_dir):
    artifact = Artifact.open(artifact_dir)
    prompter = Prompter.from_artifact(artifact)
    for pictures, tokens in ((1, 40), (3, 40)):
        prompt = made_up_prompt(artifact, pictures)
        assert len(prompter.encode(prompt, pictures, 1)) - pictures <= tokens
        assert len(prompter.encode(f"{prompt} is", pictures, 1)) - pictures > tokens


def test_a_sweep_is_every_combination(tiny_export):
    manifest = Artifact.open(tiny_export).manifest
    cases = sweep(
        manifest,
        decoders=("all",),
        decoder_precisions=("all",),
        vision_precisions=("fp16", "fp32"),
        threads=(1, 2),
    )
    expected = {
        Case(budget, "onnx", decoder, vision, threads)
        for budget in (9, 18)
        for decoder in ("fp32", "fp16")
        for vision in ("fp32", "fp16")
        for threads in (1, 2)
    }
    assert len(cases) == len(expected) == 16
    assert set(cases) == expected
    pairs = sweep(manifest, budgets=[9], decoder_precisions=("fp16", "fp16+fp32"))
    assert [case.decoder_precision for case in pairs] == ["fp16", "fp16+fp32"]
    with pytest.raises(
        PocketVLMError,
        match="no precision of the decoder 'int4' in this artifact: expected fp32 or fp16",
    ) as refusal:
        sweep(manifest, decoder_precisions=("fp16+int4",))
    assert refusal.value.setting == "decoder_precision"
    assert sweep(manifest, budgets=[5, 5]) == [Case(5, "onnx", "fp32", "fp32")]


def test_selection_is_read_from_the_nodes_of_each_run():
    def node(name, ts, dur):
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur}

    def run(ts, dur):
        return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur}

    events = [
        run(0, 100),
        node("select/topk", 5, 90),
        node("conv", 50, 9),
    ]  # warms up, does not count
    events += [
        run(200, 100),
        node("conv", 201, 70),
        node("select/topk/Fused", 280, 10),
        node("add", 295, 20),
    ]
    events += [run(400, 100), node("conv", 401, 90), node("select/topk", 490, 30)]
    events += [
        {"cat": "Node", "name": "select/topk_fence_before", "ts": 490, "dur": 7},
        {"name": "no node"},
    ]
    selection = read_events(events)
    assert (selection.select, selection.nodes) == ((0.01, 0.03), (0.1, 0.12))
    assert selection.share == pytest.approx((0.1 + 0.25) / 2)
    assert read_events([run(0, 1), run(2, 3), node("topk", 2, 1)]) is None


def test_selection_of_an_exported_graph_is_seen_after_onnx_runtimes_own_fusions(tiny_export):
    artifact = Artifact.open(tiny_export)
    cases = sweep(artifact.manifest, budgets=[9])
    (result,) = profile(artifact, cases, Question("what?"), repeat=1, warmup=0).results
    assert 0 < result.selection.share < 0.5
    assert result.costs.flops > 0
