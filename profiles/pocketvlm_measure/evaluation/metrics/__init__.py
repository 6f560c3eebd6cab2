"""How an answer is scored, one module each. A new one is a module here and one line in the registry
below."""

from pocketvlm_measure.evaluation.metrics.anls import Anls
from pocketvlm_measure.evaluation.metrics.base import Metric
from pocketvlm_measure.evaluation.metrics.choice import Choice
from pocketvlm_measure.evaluation.metrics.contains import Contains
from pocketvlm_measure.evaluation.metrics.exact import Exact
from pocketvlm_measure.evaluation.metrics.textvqa import TextVqa
from pocketvlm_measure.evaluation.metrics.vqa import Vqa
from pocketvlm_measure.evaluation.metrics.yesno import YesNo

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (Exact(), Vqa(), TextVqa(), Anls(), Contains(), Choice(), YesNo())
}

__all__ = ["METRICS", "Metric"]
