"""An interrupt ends an export at whatever moment it arrives, whatever becomes of the exception."""

import ctypes
import os
import signal
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm.files import folders, interrupts
from pocketvlm_export import pipeline
from pocketvlm_export.options import ExportOptions

NUMBERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
LONG = 60  # seconds after which something that was to be interrupted ends by itself


@pytest.fixture(autouse=True)
def handlers():
    """Signals as a program is born with them, and afterwards as they were."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        python = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if python else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Thing:
    """Something that a weak reference may point to."""


def in_a_weak_references_callback(number):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    assert reference() is None


def in_del(number):
    class Last:
        def __del__(self):
            signal.raise_signal(number)

    Last()


def in_what_c_calls(number):
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(number))()


def caught(number):
    with suppress(BaseException):  # as some libraries do
        signal.raise_signal(number)


LOSING = [in_a_weak_references_callback, in_del, in_what_c_calls, caught]
losing = pytest.mark.parametrize("lose", LOSING, ids=lambda lose: lose.__name__)
ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def ends(number):
    """The context in which an interrupt of this number is expected to end what runs."""
    if number == signal.SIGINT:
        return pytest.raises(KeyboardInterrupt)
    return pytest.raises(SystemExit, match=f"^{128 + number}$")


def wait():
    """A long call that an interrupt gets out of."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("was not interrupted")


@ignored
@losing
@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_was_lost_ends_it_at_the_next_step(lose, number):
    with ends(number), interrupts.heeded():
        lose(number)
        interrupts.check()
        pytest.fail("went on")


@ignored
@losing
def test_one_that_was_lost_ends_it_at_the_end_or_in_another_errors_place(lose):
    with ends(signal.SIGINT), interrupts.heeded():
        lose(signal.SIGINT)
    with ends(signal.SIGINT) as ended, interrupts.heeded():
        lose(signal.SIGINT)
        raise ValueError("made of it by a library")
    assert isinstance(ended.value.__cause__, ValueError)


@ignored
@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_was_lost_in_a_long_call_arrives_again_until_it_gets_out(number):
    with ends(number), interrupts.heeded(), interrupts.repeated():
        for lose in LOSING:
            lose(number)
        with suppress(BaseException):  # lost again
            wait()
        wait()
    time.sleep(0.5)  # none comes after the block
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_waits_for_the_end_of_what_must_not_be_cut_in_two():
    steps = []
    with ends(signal.SIGINT), interrupts.heeded():
        with interrupts.held():
            steps.append(1)
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                steps.append(2)
            steps.append(3)
            interrupts.check()
            steps.append(4)
        pytest.fail("went on")
    assert steps == [1, 2, 3, 4]


def test_without_an_interrupt_nothing_is_different():
    with interrupts.heeded(), interrupts.repeated(), interrupts.held():
        interrupts.check()
    with pytest.raises(ValueError, match="own"), interrupts.heeded():
        raise ValueError("own")
    interrupts.check()
    with interrupts.held(), interrupts.repeated():  # outside of any
        interrupts.check()
    for number in NUMBERS:
        expected = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        assert signal.getsignal(number) == expected


def test_what_is_ignored_stays_so_and_a_programs_own_handler_is_called():
    called = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: called.append("mine"))
    with interrupts.heeded():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        interrupts.check()
    assert called == ["mine"]


def test_an_inner_block_and_another_thread_leave_it_to_the_outer_one():
    with ends(signal.SIGINT), interrupts.heeded():
        with interrupts.heeded():
            caught(signal.SIGINT)

        def work():
            with interrupts.heeded(), interrupts.repeated(), interrupts.held():
                interrupts.check()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        interrupts.check()
        pytest.fail("went on")


STAGES = ["prepare", "build", "seal", "check", "self_test", "finish"]


@pytest.fixture
def stages(monkeypatch):
    """An export whose stages do nothing but write a file; each may be given something to do."""
    doing = {}

    def stage(name, result):
        def run(*arguments):
            doing.get(name, lambda: None)()
            for folder in arguments:
                if name != "prepare" and isinstance(folder, Path):
                    (folder / name).touch()
            return result

        return run

    results = {"prepare": None, "build": None, "seal": (None, ""), "check": None}
    results |= {"self_test": None, "finish": None}
    for name, result in results.items():
        monkeypatch.setattr(pipeline, name, stage(name, result))
    return doing


@ignored
@losing
@pytest.mark.parametrize("name", STAGES)
def test_wherever_an_export_loses_it_nothing_is_written(stages, tmp_path, name, lose):
    stages[name] = lambda: lose(signal.SIGINT)
    with ends(signal.SIGINT):
        pipeline.export("demo", tmp_path / "out" / "artifact", ExportOptions())
    assert list(tmp_path.iterdir()) == []


@ignored
@pytest.mark.parametrize("number", NUMBERS)
def test_the_command_ends_as_shells_report_a_signal(stages, tmp_path, number):
    output = tmp_path / "artifact"
    stages["prepare"] = lambda: in_what_c_calls(number)
    result = CliRunner().invoke(main, ["export", "demo", "-o", str(output)])
    assert result.exit_code == 128 + number
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True], ids=["absent", "replaced"])
def test_between_two_renames_it_waits(stages, tmp_path, monkeypatch, there):
    """It ends the export all the same, once the new artifact is in place."""
    output = tmp_path / "artifact"
    if there:
        output.mkdir()
        (output / "pocketvlm.json").touch()
    rename = Path.rename

    def interrupted(self, target):
        signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with ends(signal.SIGINT):
        pipeline.export("demo", output, ExportOptions(overwrite=there))
    assert sorted(path.name for path in output.iterdir()) == sorted(STAGES[1:])
    assert list(tmp_path.iterdir()) == [output]


def test_removing_what_was_built_is_not_cut_short(tmp_path, monkeypatch):
    unlink = os.unlink

    def interrupted(path, **options):
        if str(path).endswith("half"):
            signal.raise_signal(signal.SIGINT)
        unlink(path, **options)

    monkeypatch.setattr("os.unlink", interrupted)
    with ends(signal.SIGINT), interrupts.heeded(), folders.staged(tmp_path / "artifact") as made:
        (made / "half").touch()
    assert list(tmp_path.iterdir()) == []
