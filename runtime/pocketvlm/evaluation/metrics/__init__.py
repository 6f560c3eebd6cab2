"""How an answer is scored, one module each. A new one is a module here and one line in the registry below."""

from pocketvlm.evaluation.metrics.anls import Anls
from pocketvlm.evaluation.metrics.base import Metric
from pocketvlm.evaluation.metrics.choice import Choice
from pocketvlm.evaluation.metrics.contains import Contains
from pocketvlm.evaluation.metrics.exact import Exact
from pocketvlm.evaluation.metrics.textvqa import TextVqa
from pocketvlm.evaluation.metrics.vqa import Vqa
from pocketvlm.evaluation.metrics.yesno import YesNo

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Exact(), Vqa(), TextVqa(), Anls(), Contains(), Choice(), YesNo())
}

__all__ = ["METRICS", "Metric"]
