"""Where tasks are answered: in this process, in several, on a cluster. A new engine is a module and
one line below.

An entry takes the number of workers and returns an `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketvlm_measure.registry import Registry

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.engines.base import Engine

ENGINES: Registry[Callable[[int], Engine]] = Registry(
    {
        "local": "pocketvlm_measure.evaluation.engines.local:local",
        "ray": "pocketvlm_measure.evaluation.engines.ray:Ray",
    }
)
