"""The files of public benchmarks as question sets, one module each. A new one is a module and one
line below.

Prompts are those with which LLaVA-1.5 is evaluated (its docs/Evaluation.md): they are part of what
its figures mean.
"""

from pocketvlm_measure.evaluation.public.base import Benchmark
from pocketvlm_measure.evaluation.public.gqa import GQA
from pocketvlm_measure.evaluation.public.pope import POPE
from pocketvlm_measure.evaluation.public.scienceqa import SCIENCEQA
from pocketvlm_measure.evaluation.public.textvqa import TEXTVQA
from pocketvlm_measure.evaluation.public.vqav2 import VQAV2

BENCHMARKS: dict[str, Benchmark] = {
    found.name: found for found in (VQAV2, GQA, TEXTVQA, POPE, SCIENCEQA)
}

__all__ = ["BENCHMARKS", "Benchmark"]
