"""Knows the options that every command which answers has in common: what is loaded, and how tokens
are picked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pocketvlm.cli.lists import BIAS, BUDGET, PATH, TEXT, refuse_auto
from pocketvlm.cli.target import answering_defaults, settled_caps, takes_target

if TYPE_CHECKING:
    from pocketvlm import VLM

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _check_typed(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    from pocketvlm.ort.providers import read_provider

    for text in values:
        read_provider(text)
    return values


_IMAGE = click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=PATH,
    help="A picture; repeat for several. <image> in the prompt places one, otherwise they come "
    "first.",
)
_VIDEO = click.option(
    "--video",
    "videos",
    metavar="FILE",
    multiple=True,
    type=PATH,
    help="A clip, for models that read clips; <video> in the prompt places one.",
)
_CAPS = [
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        metavar="N",
        help="Resize pictures to at most N pixels, for artifacts with dynamic resolution; the "
        "artifact's limit if not given.",
    ),
    click.option(
        "--max-tiles",
        type=click.IntRange(1),
        metavar="N",
        help="Cut pictures into at most N parts, for artifacts with tiles; the artifact's limit if "
        "not given.",
    ),
]
_PROVIDER = click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME[:K=V]",
    callback=_check_typed,
    help="ONNX Runtime's execution provider, the preferred one first, such as openvino or "
    "cuda:device_id=1,use_tf32=0; the CPU if not given. See docs/providers.md.",
)
_VISION_PROVIDER = click.option(
    "--vision-provider",
    "vision_providers",
    multiple=True,
    metavar="NAME[:K=V]",
    callback=_check_typed,
    help="As --provider, for the vision graphs alone.",
)
_MODEL = [
    click.option(
        "--decoder",
        metavar="NAME",
        help="Decoder engine, onnx or llama.cpp; the artifact's default if not given.",
    ),
    click.option(
        "--budget",
        type=BUDGET,
        metavar="K",
        help="Visual tokens per picture; the artifact's default if not given.",
    ),
    click.option(
        "--vision-precision",
        metavar="P",
        help="Precision of the vision graph, as listed by `inspect`.",
    ),
    click.option(
        "--decoder-precision",
        metavar="P",
        help="Precision of the decoder, as listed by `inspect`; A+B prefills in A and decodes in "
        "B.",
    ),
    click.option(
        "--memory-limit",
        type=click.IntRange(0),
        metavar="MB",
        help="Memory within which a pair of decoders is opened, if no precision is given; 0 "
        "means no limit, the free memory if not given.",
    ),
    click.option(
        "--threads",
        type=int,
        metavar="N",
        help="Threads for each engine; its own default if not given.",
    ),
    click.option(
        "--context",
        type=int,
        metavar="N",
        help="Longest sequence in tokens, at most the artifact's own.",
    ),
    *_CAPS,
    _PROVIDER,
    _VISION_PROVIDER,
    click.option(
        "--feature-cache",
        metavar="FOLDER",
        type=PATH,
        help="Keep the features of pictures here, so that no picture is encoded twice.",
    ),
]


def _refuse_if_given(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        refuse_auto()


# They tuned ``--budget auto``; scripts that still give them get the reason for its removal.
_REMOVED = [
    click.option(name, hidden=True, expose_value=False, callback=_refuse_if_given)
    for name in ("--score-share", "--min-tokens")
]
_LOADED = (
    "decoder",
    "budget",
    "vision_precision",
    "decoder_precision",
    "memory_limit",
    "threads",
    "context",
    "max_pixels",
    "max_tiles",
    "feature_cache",
    "providers",
    "vision_providers",
)


def _none_if_empty(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...] | None:
    return value or None


def _schema_of(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> str | None:
    """The text of a schema's file, which `Sampling` checks."""
    if value is None:
        return None
    from pocketvlm.decoders.json_schemas import read_schema

    return read_schema(value)


# Each is named as the field of `pocketvlm.Sampling` that it fills, and has its default. They
# stand here too because that class brings numpy, for which --help does not wait; a test compares.
_BASE = click.option(
    "--sampling",
    "base",
    type=click.Choice(["greedy", "checkpoint"]),
    default="greedy",
    show_default=True,
    metavar="NAME",
    help="Default sampling: greedy, or checkpoint for the checkpoint's published settings.",
)
_SAMPLING = [
    _BASE,
    click.option(
        "--max-new-tokens",
        type=int,
        default=64,
        show_default=True,
        metavar="N",
        help="Limit of the answer.",
    ),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is greedy.",
    ),
    click.option("--top-k", type=int, metavar="N", help="Sample among the N most probable tokens."),
    click.option("--top-p", type=float, metavar="P", help="Nucleus sampling; 1 is off."),
    click.option(
        "--min-p",
        type=float,
        metavar="P",
        help="Sample among tokens at least P times as probable as the first.",
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="Above 1 makes earlier tokens less probable, 1 is off; the checkpoint's own if not "
        "given.",
    ),
    click.option(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="R",
        help="Subtracted from the logits of tokens that are in the answer, -2 to 2.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        default=0.0,
        metavar="R",
        help="Likewise, once per occurrence in the answer.",
    ),
    click.option(
        "--logit-bias",
        multiple=True,
        type=BIAS,
        metavar="ID:B",
        help="Add B, -100 to 100, to the logit of a token id; repeatable.",
    ),
    click.option(
        "--json-schema",
        type=PATH,
        metavar="FILE",
        callback=_schema_of,
        help="Constrain the answer to the JSON schema in FILE; needs the extra [grammar].",
    ),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        callback=_none_if_empty,
        help="Ends the answer before it; repeatable.",
    ),
]
_SYSTEM = click.option(
    "--system",
    type=TEXT,
    metavar="TEXT",
    help="A system message, if the chat template takes one.",
)


_GUIDE = [
    click.option(
        "--guide",
        metavar="DIR",
        type=PATH,
        help="Artifact of a small model that answers first; its attention selects the visual "
        "tokens that the one in DIR keeps.",
    ),
    click.option(
        "--confidence",
        type=float,
        metavar="P",
        help="With --guide: its own answer is the result if its confidence, the product of its "
        "tokens' probabilities, is at least P.",
    ),
]


def cap_options(command: _Command) -> _Command:
    """Add ``max_pixels`` and ``max_tiles``, see `pocketvlm.artifact.Artifact.capped`."""
    decorated: Any = command
    for option in reversed(_CAPS):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def provider_option(command: _Command) -> _Command:
    """Add ``providers``, each as it is typed, see `pocketvlm.ort.settings.providers_typed`."""
    decorated: _Command = _PROVIDER(command)
    return decorated


def vision_provider_option(command: _Command) -> _Command:
    """Add ``vision_providers``, as `provider_option` adds those of all graphs."""
    decorated: _Command = _VISION_PROVIDER(command)
    return decorated


def answering_options(command: _Command) -> _Command:
    """Add ``images``, ``videos``, ``system``, ``sampling`` (a `Sampling`) and ``load`` (gives the
    VLM of a folder)."""

    @functools.wraps(command)
    def with_groups(*arguments: Any, **given: Any) -> Any:
        from pocketvlm.decoders.sampling import Sampling

        fields = {field.name for field in dataclasses.fields(Sampling)}
        sampling = Sampling(**{name: given.pop(name) for name in fields & given.keys()})
        model = {name: given.pop(name) for name in _LOADED}
        return command(*arguments, **given, sampling=sampling, load=functools.partial(_load, model))

    decorated: Any = takes_target(answering_defaults)(with_groups)
    for option in reversed([_IMAGE, _VIDEO, _SYSTEM, *_MODEL, *_REMOVED, *_SAMPLING]):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def model_options(command: _Command) -> _Command:
    """Add what `answering_options` adds to load a model, as ``load_arguments``: it gives the
    arguments of `VLM.load` for a folder, all but the folder."""

    @functools.wraps(command)
    def with_group(*arguments: Any, **given: Any) -> Any:
        model = {name: given.pop(name) for name in _LOADED}
        return command(
            *arguments, **given, load_arguments=functools.partial(_load_arguments, model)
        )

    decorated: Any = takes_target(answering_defaults)(with_group)
    for option in reversed(_MODEL):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def sampling_base_option(command: _Command) -> _Command:
    """Add ``base``, see `pocketvlm.Sampling`."""
    decorated: _Command = _BASE(command)
    return decorated


def guide_options(command: _Command) -> _Command:
    """Add ``guide``, a folder, and ``confidence``, see `pocketvlm.guided.Guided`."""
    decorated: Any = command
    for option in reversed(_GUIDE):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def as_guide(load: Callable[..., VLM], directory: Path, model: VLM, *, prepack: bool = True) -> VLM:
    """Load a guide of ``model`` as that is loaded by `answering_options`, but in its own engine and
    precisions, and at its own budget where it hands over no scores."""
    own = dict.fromkeys(("decoder", "decoder_precision", "vision_precision", "context"))
    if not model.artifact.manifest.decoder.reads_scores:
        own["budget"] = None
    return load(directory, prepack=prepack, **own)


def _load(
    model: dict[str, Any],
    directory: Path,
    *,
    prepack: bool = True,
    once: bool = False,
    **instead: Any,
) -> VLM:
    """``once`` is `VLM.load`'s; ``instead`` takes the place of what was given on the command
    line."""
    from pocketvlm.vlm import VLM

    arguments = _load_arguments(model | instead, directory, prepack=prepack)
    return VLM.load(directory, **arguments, once=once)


def _load_arguments(
    model: dict[str, Any], directory: Path, *, prepack: bool = True
) -> dict[str, Any]:
    """The arguments of `VLM.load` that the options of a model come to."""
    from pocketvlm.ort.settings import EngineSettings, providers_typed, vision_providers_typed

    of_engines = {name: model[name] for name in ("threads", "memory_limit")}
    settings = EngineSettings(
        **of_engines,
        prepack=prepack,
        providers=providers_typed(model["providers"]),
        vision_providers=vision_providers_typed(model["vision_providers"]),
    )
    of_settings = (*of_engines, "providers", "vision_providers")
    others = {name: value for name, value in model.items() if name not in of_settings}
    others |= settled_caps(directory, {name: others[name] for name in ("max_pixels", "max_tiles")})
    return {**others, "settings": settings}
