"""Knows about how long an export takes, before one was timed."""

from pocketvlm_export.plan import ExportPlan

# Seconds of one core. They only say whether to expect a minute or an hour: whoever exports several
# corrects them by the first. The demo has small weights: its unpruned export took 26 s of processor
# time on an AMD EPYC. One of two budgets without the decoder took 27 s.
_STARTING = 8.0  # imports, configuration, pictures of the gate
_GRAPH = 5.0  # tracing one, whatever its size
_GATE = 4.0
_BYTE = 1.2e-8  # a byte of float32 weights, for each precision that it is written in: assumed


def expected_seconds(plan: ExportPlan, *, decoder: bool) -> float:
    """Return the expected seconds of an export, its gate included; ``decoder`` says whether the
    decoder's files are made too, or are there already."""
    graphs = len(plan.budgets) if not plan.selectors else 1 + len(plan.selectors)
    work = plan.vision_bytes * (1 + len(next(iter(plan.vision.values()))))
    # The gate reads the checkpoint's decoder for every export.
    text = plan.decoder_bytes + plan.embed_bytes
    work += text
    if decoder:
        graphs += bool(plan.decoder) + bool(plan.embed)
        work += text * (len(plan.decoder) + len(plan.gguf))
    return _STARTING + _GATE + _GRAPH * graphs + _BYTE * work
