"""How an answer is scored, one module each. A new metric is a module and one line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm_measure.registry import Registry

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.metrics.base import Metric

METRICS: Registry[Metric] = Registry(
    {
        "exact": "pocketvlm_measure.evaluation.metrics.exact:Exact",
        "vqa": "pocketvlm_measure.evaluation.metrics.vqa:Vqa",
        "vqa-llava": "pocketvlm_measure.evaluation.metrics.vqa_llava:VqaLlava",
        "textvqa": "pocketvlm_measure.evaluation.metrics.textvqa:TextVqa",
        "anls": "pocketvlm_measure.evaluation.metrics.anls:Anls",
        "contains": "pocketvlm_measure.evaluation.metrics.contains:Contains",
        "choice": "pocketvlm_measure.evaluation.metrics.choice:Choice",
        "yesno-f1": "pocketvlm_measure.evaluation.metrics.yesno:YesNo",
    },
    make=lambda metric: metric(),
)
