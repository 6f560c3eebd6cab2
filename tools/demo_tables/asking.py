"""Knows how the cases of one artifact are listed for an evaluation, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketvlm import Artifact
from pocketvlm_measure.cases import ALL, sweep
from pocketvlm_measure.evaluation.plan import Subject, subjects

THREADS = 1  # the demo is too small to gain from more


def cases_of(
    folder: Path, workers: int, budgets: Sequence[int], *, shares_prefill: bool = False
) -> list[Subject]:
    """Every decoder and precision that the artifact has, at these budgets."""
    artifact = Artifact.open(folder)
    cases = sweep(
        artifact.manifest,
        budgets=budgets,
        decoders=(ALL,),
        decoder_precisions=(ALL,),
        vision_precisions=(ALL,),
        threads=(THREADS,),
    )
    return subjects(folder, artifact, cases, workers, shares_prefill=shares_prefill)
