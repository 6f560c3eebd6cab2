"""Tunings made by hand, for what is written of them, and an artifact to choose in."""

import shutil
from dataclasses import replace

import onnx

from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.tuning import Candidate, Evidence, Interval, TuneLimits, Tuning
from support.tiny_artifact import read_manifest, write_artifact, write_manifest


def candidate(budget=36, folder="/somewhere/demo", made_by=(), **case):
    given = {"decoder": "onnx", "decoder_precision": "int8", "vision_precision": "int8"} | case
    return Candidate(folder, Case(budget, **given), made_by)


def tuning(*others, chosen=None, limits=None, **stated):
    """A tuning whose baseline takes 100 ms; ``chosen`` is a number of the others."""
    baseline = Evidence(
        candidate(144, decoder_precision="fp32", vision_precision="fp32"),
        "baseline",
        "what the others are compared with",
        questions=200,
        accuracy=Interval(0.97, 0.94, 0.99),
        ttft_ms=(100.0, 110.0, 90.0),
        ratios=(1.0, 1.0, 1.0),
        peak_bytes=(400_000_000,),
    )
    picked = None if chosen is None else others[chosen]
    made = Tuning(
        limits=limits or TuneLimits(),
        baseline=baseline,
        evidence=others,
        chosen=picked,
        shown=picked,
        questions=200,
        pictures=50,
        answers=1000,
        error_each=0.0125,
        seconds=321.0,
        time_up=False,
    )
    return replace(made, **stated)


def evidence(of=None, verdict="holds", reason="shown to lose at most 2 points", **stated):
    given = {
        "questions": 200,
        "accuracy": Interval(0.962, 0.93, 0.99),
        "difference": Interval(-0.008, -0.0173, 0.004),
        "ttft_ms": (40.0, 42.0, 41.5),
        "ratios": (0.4, 0.42, 0.415),
        "peak_bytes": (231_000_000, 230_000_000),
    }
    return Evidence(of or candidate(), verdict, reason, **(given | stated))


def write_several(tmp_path, budgets=(12, 6, 3), seed=1):
    """Write an artifact of three budgets, the default first, with a second precision of the tower
    and of the decoder, whose weights are of another seed than 0 and lie in files of their own;
    returns its folder."""
    root, other = tmp_path / "several", tmp_path / "other"
    write_artifact(root, budgets=budgets)
    write_artifact(other, budgets=budgets, seed=seed)
    data = read_manifest(root)
    own = "" if budgets[0] == 6 else ".k6"
    for name, suffix in (("vision_encoder", own), ("decoder_model_merged", "")):
        second = f"onnx/{name}_quantized{suffix}.onnx"
        _beside(other / f"onnx/{name}{suffix}.onnx", root / second, data["artifact_id"])
        if name == "vision_encoder":
            data["vision"]["graphs"]["6"]["int8"] = second
    data["decoder"]["graphs"]["int8"] = second
    data["decoder"]["tables"]["int8"] = "fp32"
    data["vision"]["totals"] = {str(k): {"1x1": k} for k in budgets}
    (root / "USING.md").write_text(f"budgets {budgets}")
    (root / "README.md").write_text("about the model")
    data["parity"]["by_precision"] = {"int8": {"passed": True}, "int4": {"passed": True}}
    write_manifest(root, data)
    table = read_manifest(root)
    del table["files"]["README.md"]  # as an export leaves it out
    write_manifest(root, table, recount=False)
    shutil.rmtree(other)
    return root


def _beside(source, target, artifact_id):
    """Copy a graph with its weights in a file of their own, stamped as one of another artifact."""
    model = onnx.load(source)
    for prop in model.metadata_props:
        if prop.value != artifact_id and len(prop.value) == 64:
            prop.value = artifact_id
    weights = target.with_suffix(".onnx_data").name
    onnx.save(model, target, save_as_external_data=True, location=weights, size_threshold=128)
