"""Measures what an artifact answers: accuracy against budget on any question set, with intervals.

``questions`` reads the set, ``run.evaluate`` has every case of ``plan`` answer it through one of
``engines`` and keeps what was answered in a ``journal``. ``metrics`` score it, ``statistics`` say
how sure that is, and a ``summary`` goes to programs, ``tables`` to people, a ``report`` to both.
Nothing is imported here.
"""
