"""Whether a device computes as it should: an artifact's graphs on one small picture, beside what
they gave when it was exported."""

from pocketvlm.selftest.checks import Checks, every_check
from pocketvlm.selftest.result import Figure, GraphResult, SelfTestResult
from pocketvlm.selftest.running import run_self_test
from pocketvlm.selftest.trust import ensure_trusted, needs_trust

__all__ = [
    "Checks",
    "Figure",
    "GraphResult",
    "SelfTestResult",
    "ensure_trusted",
    "every_check",
    "needs_trust",
    "run_self_test",
]
