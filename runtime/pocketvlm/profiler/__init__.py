"""Measures what an artifact costs on this machine: time by stage, spread, memory, beside what the formulas say.

>>> from pocketvlm.profiler import profile, sweep
>>> from pocketvlm.profiler.questions import Question
>>> artifact = Artifact.open("my-artifact")
>>> profile(artifact, sweep(artifact.manifest), Question("What is it?")).results[0].stages["ttft"].median
"""

from pocketvlm.profiler.cases import Case, sweep
from pocketvlm.profiler.measure import profile
from pocketvlm.profiler.result import Profile, Result
from pocketvlm.profiler.spread import Spread

__all__ = ["Case", "Profile", "Result", "Spread", "profile", "sweep"]
