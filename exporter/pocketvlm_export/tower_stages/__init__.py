"""Ways to choose the patches that are kept between two layers of a vision tower, by name; importing
this imports no torch.

A new one is a module here, a module of the same name in
`pocketvlm_export.verification.tower_stages`, and one line of `TOWER_STAGES`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm_export.tower_stages.base import Criterion

__all__ = ["DEFAULT_CRITERION", "TOWER_STAGES", "find_criterion", "make_criterion"]

# By name the class, in the module of that name.
TOWER_STAGES: Mapping[str, str] = {
    "keys": "Keys",
    "farthest": "Farthest",
    "received": "Received",
    "cls": "Cls",
    "flowcut": "FlowCut",
    "even": "Even",
}
# What loses least of those that were tried, see its module.
DEFAULT_CRITERION = "keys"


def find_criterion(name: str) -> "type[Criterion]":
    """Return the class of the way called ``name``; raises `RequestError` where there is none."""
    if name not in TOWER_STAGES:
        raise RequestError(
            f"tower stages by {name!r} are unknown",
            advice=f"choose from {', '.join(TOWER_STAGES)}",
            setting="tower_stage",
        )
    criterion: type[Criterion] = getattr(import_module(f"{__name__}.{name}"), TOWER_STAGES[name])
    return criterion


def make_criterion(name: str) -> "Criterion":
    """Return the way called ``name``; raises `RequestError` where there is none."""
    return find_criterion(name)()
