"""How an answer is scored, one module each. A new metric is a module and one line below, or a
package of its own that registers it as an entry point of the group ``pocketvlm.metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketvlm.plugins import Plugins
from pocketvlm_measure.registry import Registry

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.metrics.base import Metric

_OWN = {
    "exact": "pocketvlm_measure.evaluation.metrics.exact:Exact",
    "vqa": "pocketvlm_measure.evaluation.metrics.vqa:Vqa",
    "vqa-llava": "pocketvlm_measure.evaluation.metrics.vqa_llava:VqaLlava",
    "textvqa": "pocketvlm_measure.evaluation.metrics.textvqa:TextVqa",
    "anls": "pocketvlm_measure.evaluation.metrics.anls:Anls",
    "contains": "pocketvlm_measure.evaluation.metrics.contains:Contains",
    "choice": "pocketvlm_measure.evaluation.metrics.choice:Choice",
    "yesno-f1": "pocketvlm_measure.evaluation.metrics.yesno:YesNo",
}


def _problem(name: str, loaded: Any) -> str | None:
    """What is wrong with the metric that a package registers under ``name``."""
    from pocketvlm_measure.evaluation.metrics.base import Metric

    if not isinstance(loaded, type) or not issubclass(loaded, Metric):
        return "it is not a class derived from pocketvlm_measure.evaluation.metrics.base.Metric"
    if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
        return f"it does not say its {missing[0]}"
    if getattr(loaded, "name", None) != name:
        return f"it calls itself {getattr(loaded, 'name', None)!r}"
    figures = getattr(loaded, "figures", ())
    if not figures or not all(isinstance(figure, str) for figure in figures):
        return "its figures have no names"
    return None


METRICS: Registry[Metric] = Registry(
    _OWN,
    make=lambda metric: metric(),
    plugins=Plugins("pocketvlm.metrics", "metric", _OWN, _problem),
)
