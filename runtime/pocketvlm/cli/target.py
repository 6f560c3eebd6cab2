"""Knows `--target`: a flag beats a target, a target beats a default."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pocketvlm.errors import PocketVLMError, RequestError

if TYPE_CHECKING:
    from pocketvlm_targets import Target

_Command = TypeVar("_Command", bound=Callable[..., Any])
# What a target wants of a command, by parameter name. It is told what is in force so far,
# ``decoder`` being the typed one or else the target's, so that precisions for one engine are not
# asked of another.
Wishes = Callable[["Target", Mapping[str, Any]], Mapping[str, Any]]

_TARGET = click.option(
    "--target",
    metavar="NAME|FILE",
    help="Take what no option says from a deployment target; see `pocketvlm targets`.",
)


def takes_target(wishes: Wishes) -> Callable[[_Command], _Command]:
    """Add ``--target`` to a command; what the target says arrives as if it had been typed."""

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def with_target(*arguments: Any, target: str | None, **given: Any) -> Any:
            if target is None:
                return command(*arguments, **given)
            taken = _from_target(target, given, wishes)
            try:
                return command(*arguments, **given | taken)
            except PocketVLMError as error:
                raise _with_source(error, target, taken) from error

        decorated: Any = _TARGET(with_target)
        result: _Command = decorated
        return result

    return decorate


def load_target(name_or_file: str | os.PathLike[str]) -> Target:
    """Read a shipped target by name, or a TOML file; raises `PocketVLMError` naming the file and
    the key."""
    import pocketvlm_targets

    try:
        return pocketvlm_targets.load_target(name_or_file)
    except pocketvlm_targets.TargetError as error:
        raise RequestError(str(error)) from error


def answering_wishes(target: Target, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a target wants of a command that answers: the first value of each list."""
    precisions = target.gguf_type if given["decoder"] == "llama.cpp" else target.decoder_precision
    wanted = {
        "decoder": None if target.decoder == "both" else target.decoder,
        "budget": next(iter(target.budget), None),
        "vision_precision": next(iter(target.vision_precision), None),
        "decoder_precision": next(iter(precisions), None),
        "threads": target.threads,
        "context": target.context,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _from_target(name_or_file: str, given: Mapping[str, Any], wishes: Wishes) -> dict[str, Any]:
    """The target's values for the options that nobody typed, converted as the options convert what
    is typed."""
    context = click.get_current_context()
    target = load_target(name_or_file)
    decoder = (
        given["decoder"] if target.decoder is None or _typed(context, "decoder") else target.decoder
    )
    wanted = wishes(target, {**given, "decoder": decoder})
    options = {option.name: option for option in context.command.params}
    taken = {}
    for name, value in wanted.items():
        if _typed(context, name):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        try:
            taken[name] = options[name].type_cast_value(context, text)
        except KeyError as error:
            raise RequestError(
                f"{target.name}: {name} is not for this version's `{context.info_name}`",
                advice="leave it out",
            ) from error
        except click.BadParameter as error:
            flag = options[name].opts[0]
            raise RequestError(
                f"{target.name}: {name}: {error.message.rstrip('.')}",
                advice=f"change it or say {flag}",
            ) from error
    return taken


def _with_source(error: PocketVLMError, target: str, taken: Mapping[str, Any]) -> PocketVLMError:
    """The refusal, with what of it nobody typed: the names or values that the target gave and the
    refusal mentions."""
    words = set(re.findall(r"[\w.+]+", str(error)))
    options = {option.name: option.opts[0] for option in click.get_current_context().command.params}
    named = [options[name] for name, value in taken.items() if words & _words(value)]
    if not named:
        return error
    return RequestError(f"{error} (target {target} says so: {' and '.join(named)} would beat it)")


def _words(value: Any) -> set[str]:
    return {str(item) for item in (value if isinstance(value, tuple) else (value,))}


def _typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (
        None,
        ParameterSource.DEFAULT,
        ParameterSource.DEFAULT_MAP,
    )
