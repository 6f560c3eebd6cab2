"""What each way to choose at a stage of the decoder should give, written again in numpy and
float64.

Each entry of `pocketvlm_export.decoder_stages.DECODER_STAGES` has a module of its name here, with a
function ``score``.
"""

from importlib import import_module

from pocketvlm_export.decoder_stages import find_ranking, module_name
from pocketvlm_export.verification.decoder_stages.base import Read, StageOracle

__all__ = ["Read", "StageOracle", "find_stage_oracle"]


def find_stage_oracle(by: str) -> StageOracle:
    """Return the oracle of a registered way to choose; raises `RequestError` for another."""
    find_ranking(by)  # the name may be an artifact's
    oracle: StageOracle = import_module(f"{__name__}.{module_name(by)}").score
    return oracle
