"""Knows in which precision an evaluation's decoder answers where none is asked for: in that of the
answers that are there, else in what memory allows."""

from __future__ import annotations

from pathlib import Path

from pocketvlm.artifact import Manifest
from pocketvlm.artifact.pair import Choice, choose_precision
from pocketvlm.errors import RequestError
from pocketvlm.files import user_path
from pocketvlm_measure.line_file import rows_of

_ONNX = "onnx"


def settled_precision(
    manifest: Manifest, answers: Path | None, memory_limit: int | None, workers: int
) -> Choice:
    """Return what ONNX Runtime's decoder answers in, and why.

    Answers in another precision would be asked for again, and so what is free at the moment must
    not decide between them.

    Args:
        manifest: of an artifact with a pair of decoders.
        answers: the file of the run that continues; None for a new run.
        memory_limit: MB that a worker may take, see `choose_precision`.
        workers: processes that share what is free.

    Raises:
        RequestError: the answers are of a pair, for which there is too little memory by now.
    """
    by_memory = choose_precision(manifest, _ONNX, memory_limit, workers)
    before = None if answers is None else _answered_in(manifest, user_path(answers))
    if before is None:
        return by_memory
    if before == manifest.decoder.pair != by_memory.precision:
        raise RequestError(
            f"{answers} was answered in {before} ({by_memory.reason})",
            advice=f"free memory, give --decoder-precision {before}, or name another file with "
            "--answers",
            setting="answers",
        )
    return Choice(before, f"as {answers} was answered")


def _answered_in(manifest: Manifest, answers: Path) -> str | None:
    """Which of the two that a run may choose has the first answers of this artifact."""
    may_be = {manifest.decoder.pair, manifest.decoder.default_precisions[_ONNX]}
    for row in rows_of(answers):
        # Behind the content stand a guide and providers, see `Subject.key`.
        artifact, precision = (
            str(row.get("artifact")).partition("+")[0],
            row.get("decoder_precision"),
        )
        if artifact == manifest.content_id and row.get("decoder") == _ONNX and precision in may_be:
            return str(precision)
    return None
