"""Progress is shown where there is a terminal, and missed by nobody elsewhere."""

import sys

from pocketvlm_measure.progress import counter, progress


def test_a_program_without_a_console_measures_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress([1, 2, 3], desc="drawing")) == [1, 2, 3]
    with counter(total=2, desc="measuring", unit="run") as bar:
        bar.update()
        bar.set_postfix_str("one", refresh=False)


def test_nothing_is_shown_in_a_log(capsys):
    assert list(progress(range(3), desc="drawing")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
