"""What libraries say during an export stays off the terminal, and everything is as before
afterwards."""

import logging
import warnings
from contextlib import suppress

import pytest
from transformers.utils import logging as transformers_logging

from pocketvlm_export import upstream
from pocketvlm_export.quiet import (
    quiet,
    quiet_gguf,
    quiet_ort_tools,
    quiet_tracer,
    quiet_transformers,
)


@pytest.mark.parametrize(
    ("manager", "name"),
    [
        (quiet_transformers, "transformers"),
        (quiet_tracer, upstream.TRACER_LOGGER),
        (quiet_gguf, "gguf"),
    ],
)
@pytest.mark.parametrize("before", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_errors_alone_are_reported_meanwhile(manager, name, before):
    logger = logging.getLogger(name)
    original = logger.level
    logger.setLevel(before)
    try:
        with suppress(ZeroDivisionError), manager():
            assert not logger.isEnabledFor(logging.WARNING)
            assert logger.isEnabledFor(logging.ERROR) is (before != logging.CRITICAL)
            raise ZeroDivisionError
        assert logger.level == before
    finally:
        logger.setLevel(original)


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_bars_come_back_only_where_they_were(enabled):
    switch = {
        True: transformers_logging.enable_progress_bar,
        False: transformers_logging.disable_progress_bar,
    }
    original = transformers_logging.is_progress_bar_enabled()
    switch[enabled]()
    try:
        with quiet_transformers():
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() is enabled
    finally:
        switch[original]()


def test_the_tracers_warnings_are_ignored_and_others_are_not():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_tracer():
            warnings.warn("The axis name: batch is used twice", UserWarning, stacklevel=1)
            warnings.warn("soon gone", FutureWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["something else", "soon gone"]


def test_tools_print_nothing_and_set_up_no_logging(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a process without pytest
    with quiet_ort_tools():
        print("Converted 1/1 models successfully.")
        logging.basicConfig(level=logging.DEBUG)
    assert capsys.readouterr().out == ""
    assert root.handlers == []
    print("and on")
    assert capsys.readouterr().out == "and on\n"


def test_managers_nest():
    logger = logging.getLogger("pocketvlm.test")
    with quiet("pocketvlm.test"), quiet("pocketvlm.test", level=logging.CRITICAL):
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.level == logging.NOTSET
