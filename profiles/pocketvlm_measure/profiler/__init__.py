"""Measures what an artifact costs on this machine: time by stage, spread, memory, beside what the
formulas say.

``measure.profile`` takes the configurations of ``cases.sweep`` in turns and answers
``questions.Question`` with each. The result, a ``result.Profile``, becomes ``rows`` for programs,
``tables`` for people, a ``report`` for both. Nothing is imported here: the process whose memory is
measured loads no more than it must.
"""
