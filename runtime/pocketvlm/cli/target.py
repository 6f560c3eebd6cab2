"""Knows `--target`: a flag beats a target, a target beats a default."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from pocketvlm.errors import PocketVLMError, RequestError

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact
    from pocketvlm_targets import Target

_Command = TypeVar("_Command", bound=Callable[..., Any])
# What a target sets for a command, by parameter name: a value, or a function without arguments that
# gives it, or None for the command's own default. A function is called when its option is
# processed: after all options on the command line and those declared before it, so that it finds
# the engine in force in ``ctx.params``.
TargetDefaults = Callable[["Target", click.Context], Mapping[str, Any]]
_IN_FORCE = "pocketvlm.target"  # key of the invocation's `click.Context.meta`


class _InForce(NamedTuple):
    """The target of an invocation, as it was named, and the context of the command it is for."""

    name: str
    command: click.Context


def takes_target(defaults: TargetDefaults) -> Callable[[_Command], _Command]:
    """Add ``--target`` to a command; ``defaults`` picks the values of a target that are its
    options'."""

    def apply(ctx: click.Context, _param: click.Parameter, name: str | None) -> None:
        if name is not None and not ctx.resilient_parsing:
            ctx.default_map = _default_map(ctx, name, defaults(load_target(name), ctx))
            ctx.meta[_IN_FORCE] = _InForce(name, ctx)

    return click.option(
        "--target",
        metavar="NAME|FILE",
        is_eager=True,  # before the options whose defaults it gives
        expose_value=False,
        callback=apply,
        help="Take the options that are not given from a deployment target; see `pocketvlm "
        "targets`.",
    )


def load_target(name_or_file: str | os.PathLike[str]) -> Target:
    """Read a shipped target by name, or a TOML file; raises `RequestError` naming the file and the
    key."""
    import pocketvlm_targets

    try:
        return pocketvlm_targets.load_target(name_or_file)
    except pocketvlm_targets.TargetError as error:
        raise RequestError(error.found, error.expected, error.advice, setting="target") from error


def answering_defaults(target: Target, ctx: click.Context) -> dict[str, Any]:
    """A target's values for a command that answers: the first of each list.

    Of several precisions of ONNX Runtime's decoders the artifact knows the default, and whether two
    answer together.
    """

    def decoder_precision() -> str | None:
        if ctx.params["decoder"] == "llama.cpp":
            return next(iter(target.gguf_type), None)
        several = len(target.decoder_precision) > 1
        return None if several else next(iter(target.decoder_precision), None)

    return {
        "decoder": None if target.decoder == "both" else target.decoder,
        "budget": next(iter(target.budget), None),
        "vision_precision": next(iter(target.vision_precision), None),
        "decoder_precision": decoder_precision,
        "threads": target.threads,
        "context": target.context,
        "providers": list(target.provider) or None,
        "memory_limit": target.memory_limit,
        **answering_caps(target),
    }


def answering_caps(target: Target) -> dict[str, int | None]:
    """A target's caps on pictures, for a command that answers; see `given_by_target`."""
    return {"max_pixels": target.max_pixels, "max_tiles": target.max_tiles}


def given_by_target(*names: str) -> frozenset[str]:
    """Those of the options of the command that runs which its target gave.

    A target's cap on pictures suits its device: a model that is under a smaller one, or has none of
    that kind, is as good. A cap that is typed is refused there.
    """
    ctx = click.get_current_context(silent=True)
    return frozenset(
        name
        for name in names
        if ctx is not None and ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    )


def capped(artifact: Artifact, **caps: int | None) -> Artifact:
    """The artifact under ``max_pixels`` and ``max_tiles`` as the command that runs got them, see
    `given_by_target`."""
    from pocketvlm.layouts import caps_within, counting_layout

    if given := given_by_target(*caps):
        within = caps_within(counting_layout(artifact), **caps)
        caps |= {name: within[name] for name in given}
    return artifact.capped(**caps)


def settled_caps(directory: Path, caps: dict[str, int | None]) -> dict[str, int | None]:
    """As `capped`, of an artifact that is not opened yet: returns the caps."""
    if not given_by_target(*caps):
        return caps
    from pocketvlm.artifact import Artifact

    artifact = capped(Artifact.open(directory, "sizes"), **caps)
    return {"max_pixels": artifact.max_pixels, "max_tiles": artifact.max_tiles}


@contextmanager
def naming_target(ctx: click.Context) -> Iterator[None]:
    """Name the target, and the flag that beats it, in a refusal of a value that the target gave.

    Args:
        ctx: of the command, or of any command above it.

    Raises:
        RequestError: in place of click's usage error, where an option refused a target's value.
        PocketVLMError: a later refusal whose ``setting`` came from the target.
    """
    try:
        yield
    except click.BadParameter as error:
        refusing = error.param
        option = _option_from_target(ctx, lambda option: option is refusing)
        if option is None:
            raise
        flag = option.opts[0]
        key = flag.removeprefix("--").replace("-", "_")
        raise RequestError(
            f"{ctx.meta[_IN_FORCE].name}: {key}: {error.message.rstrip('.')}",
            advice=f"change it or give {flag}",
            setting=key,
        ) from error
    except PocketVLMError as error:
        setting = error.setting
        names = (setting, f"--{setting.replace('_', '-')}")
        option = _option_from_target(
            ctx, lambda option: option.name in names or not {*names}.isdisjoint(option.opts)
        )
        if option is None:
            raise
        # A flag such as --portable cannot be typed to mean no.
        beats = "" if getattr(option, "is_flag", False) else f": {option.opts[0]} would beat it"
        note = f"(target {ctx.meta[_IN_FORCE].name} says so{beats})"
        raise _with_note(error, note) from error


def _default_map(ctx: click.Context, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as click's ``default_map``, written as if they had been typed, so that the options
    check them."""
    options = {option.name: option for option in ctx.command.params}
    for key in values:
        if key not in options:
            raise RequestError(
                f"{name}: {key} is not for this version's `{ctx.info_name}`",
                advice="leave it out",
                setting="target",
            )

    def late(option: click.Parameter, value: Callable[[], Any]) -> Callable[[], Any]:
        # click takes an entry of the map for an answer, None too.
        return lambda: option.default if (given := value()) is None else _as_typed(given)

    return {
        key: late(options[key], value) if callable(value) else _as_typed(value)
        for key, value in values.items()
        if value is not None
    }


def _as_typed(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _option_from_target(
    ctx: click.Context, matches: Callable[[click.Parameter], bool]
) -> click.Parameter | None:
    """The option that ``matches``, where the target gave its value; else None."""
    if _IN_FORCE not in ctx.meta:
        return None
    command: click.Context = ctx.meta[_IN_FORCE].command
    for option in command.command.params:
        if option.name is not None and matches(option):
            given_by = command.get_parameter_source(option.name)
            return option if given_by is ParameterSource.DEFAULT_MAP else None
    return None


def _with_note(error: PocketVLMError, note: str) -> PocketVLMError:
    """The same refusal with a note at the end of its line."""
    noted = copy.copy(error)
    last = "advice" if error.advice else "expected" if error.expected else "found"
    setattr(noted, last, f"{getattr(error, last)} {note}")
    return noted
