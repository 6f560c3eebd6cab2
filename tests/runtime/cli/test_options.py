"""Options that commands share: their defaults, and what they refuse."""

import inspect

import click
import pytest
from click.testing import CliRunner

from pocketvlm import Sampling, cli
from pocketvlm_measure.evaluation.run import evaluate

REMOVED = (
    "--budget auto was removed: it answered no more questions than a fixed budget; give a number"
)


def parsed(command, *arguments):
    """The values of a command's options; it does not run."""
    context = click.Context(cli.main)
    return cli.main.get_command(context, command).make_context(command, list(arguments)).params


def invoke(*arguments):
    return CliRunner().invoke(cli.main, arguments, prog_name="pocketvlm")


@pytest.mark.parametrize("command", [["run", "d", "--prompt", "x"], ["chat", "d"]])
def test_options_that_are_not_given_are_the_defaults_of_sampling(command):
    values, defaults = parsed(*command), vars(Sampling())
    names = values.keys() & defaults.keys()
    assert {"base", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop"} <= names
    assert {name: values[name] for name in names} == {name: defaults[name] for name in names}


def test_evaluate_asks_for_answers_as_long_by_default_as_its_function_does():
    default = inspect.signature(evaluate).parameters["max_new_tokens"].default
    assert parsed("evaluate", "d", "--data", "x.jsonl")["max_new_tokens"] == default


@pytest.mark.parametrize(
    "command",
    [
        ["run", "d", "--prompt", "x"],
        ["chat", "d"],
        ["inspect", "d"],
        ["profile", "d"],
        ["evaluate", "d", "--data", "x.jsonl"],
        ["export", "demo", "-o", "d"],
    ],
)
def test_every_budget_says_why_auto_was_removed(command):
    result = invoke(*command, "--budget", "auto")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"Error: Invalid value for '--budget': {REMOVED}\n")


@pytest.mark.parametrize("command", [["run", "d", "--prompt", "x"], ["chat", "d"]])
@pytest.mark.parametrize(
    "options",
    [
        ["--score-share", "0.9"],
        ["--min-tokens", "4"],
        ["--budget", "auto", "--score-share", "0.9", "--min-tokens", "4"],
        ["--score-share", "0.9", "--budget", "auto"],
    ],
)
def test_options_that_went_with_auto_say_why(command, options):
    result = invoke(*command, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f": {REMOVED}\n")
    assert options[-2] not in invoke(command[0], "--help").stdout or options[-2] == "--budget"
