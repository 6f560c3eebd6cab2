"""The files of public benchmarks as question sets, one module each. A new benchmark is a module and
one line below.

Prompts are those with which LLaVA-1.5 is evaluated (its docs/Evaluation.md): they are part of what
its figures mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm_measure.registry import Registry

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.public.base import Benchmark

BENCHMARKS: Registry[Benchmark] = Registry(
    {
        "vqav2": "pocketvlm_measure.evaluation.public.vqav2:VQAV2",
        "gqa": "pocketvlm_measure.evaluation.public.gqa:GQA",
        "textvqa": "pocketvlm_measure.evaluation.public.textvqa:TEXTVQA",
        "pope": "pocketvlm_measure.evaluation.public.pope:POPE",
        "scienceqa": "pocketvlm_measure.evaluation.public.scienceqa:SCIENCEQA",
    }
)
