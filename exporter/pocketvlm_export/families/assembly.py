"""Knows how transformers' modules are built around a checkpoint's tensors, and what is wrong where
they do not fit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pocketvlm.errors import CheckpointError, first_line
from pocketvlm_export import upstream


def with_changes(config: PretrainedConfig, **changes: Any) -> PretrainedConfig:
    """Return a copy with some values replaced."""
    # Not by way of a dict: DINOv2's lists stages that a cut tower no longer has.
    changed = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def fill(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    state: dict[str, torch.Tensor],
    attention: str,
    *,
    whole: bool = False,
) -> PreTrainedModel:
    """Build ``cls`` around the given tensors without allocating its parameters first.

    Args:
        cls: transformers' class.
        config: of the checkpoint.
        state: float32 tensors by their names within the class.
        attention: one of transformers' attention implementations.
        whole: refuse tensors that it has no place for.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or too many.
    """
    with understood(cls.__name__):
        _check_shapes(cls, config, state)
        model, info = upstream.fill(cls, config, state, attention)
    problems = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    problems += sorted(info["unexpected_keys"]) if whole else []
    if problems:
        raise _unfit(cls, problems[0])
    return model.eval()


# What transformers' classes and torch raise of values that nobody has checked; RuntimeError: sizes
# that are beyond torch, and recursion; AssertionError: torch's own checks of sizes.
_OF_BUILDING = (
    AssertionError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    IndexError,
    RuntimeError,
)


@contextmanager
def understood(name: str) -> Iterator[None]:
    """Name the part of a model whose class fails on its configuration: values that no class has
    checked, such as an unknown activation. Raises `CheckpointError`."""
    try:
        yield
    except _OF_BUILDING as error:
        raise CheckpointError(
            f"{name} cannot be built of its configuration ({first_line(error)})",
            advice="correct config.json",
        ) from error


def _check_shapes(
    cls: type[PreTrainedModel], config: PretrainedConfig, state: dict[str, torch.Tensor]
) -> None:
    """Raise `CheckpointError` for the first tensor of another shape, or where those that are
    missing are larger than all that are there.

    transformers makes every one of them, as large as config.json says, before it says a word.
    """
    with torch.device("meta"):
        expected = cls(config).state_dict()
    for key in sorted(expected.keys() & state.keys()):
        check_shape(f"{cls.__name__}.{key}", state[key], tuple(expected[key].shape))
    missing = sorted(expected.keys() - state.keys())  # some of them tied to another
    there = sum(tensor.numel() for tensor in state.values())
    if sum(expected[key].numel() for key in missing) > there:
        raise _unfit(cls, missing[0])


def _unfit(cls: type[PreTrainedModel], name: str) -> CheckpointError:
    """The error where a weight is missing, too many, or of another shape."""
    return CheckpointError(
        f"{cls.__name__} weights do not fit its configuration ({name}; the checkpoint is "
        "incomplete, or its config.json is another model's)",
        advice="download it again",
    )


def assign(module: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Give a module, made on torch's meta device, its parameters.

    Args:
        module: the module.
        state: float32 tensors by their names within it.
        name: of the component, for errors.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or too many.
    """
    expected = module.state_dict()
    if odd := sorted(expected.keys() ^ state.keys()):
        problem = "the checkpoint lacks" if odd[0] in expected else "config.json has no place for"
        raise CheckpointError(
            f"{problem} the weight {name}.{odd[0]} (weights and configuration belong to two "
            "models, or the checkpoint is incomplete)",
            advice="download it again",
        )
    for key, parameter in expected.items():
        check_shape(f"{name}.{key}", state[key], tuple(parameter.shape))
    module.load_state_dict(state, assign=True)


def check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a weight of another shape than config.json states; raises `CheckpointError`."""
    if tuple(tensor.shape) != expected:
        raise CheckpointError(
            f"weight {name} has shape {tuple(tensor.shape)} and by config.json {expected} "
            "(weights and configuration belong to two models)",
            advice="download both again",
        )
