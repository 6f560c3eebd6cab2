"""Measures artifacts: what an answer costs (`profiler`), how many answers are right (`evaluation`).

It needs the extra ``[measure]``. It imports the runtime, which knows nothing of it, and never the
exporter. The profiler and the evaluation share the modules beside them and import nothing of each
other.
"""
