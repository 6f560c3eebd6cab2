"""Measures artifacts: what an answer costs (`profiler`), how many are right (`evaluation`); the
extra ``[measure]``.

Stands above the runtime, which knows nothing of it, and beside the exporter, which it never
imports.
"""
