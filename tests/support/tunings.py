"""Tunings made by hand, for what is written of them."""

from dataclasses import replace

from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.tuning import Candidate, Evidence, Interval, TuneLimits, Tuning


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
