"""Knows which files hold a checkpoint's weights, and reads their headers, on this machine or on the
Hub."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import SafetensorsParsingError
from safetensors import safe_open

from pocketvlm.errors import CheckpointError, first_line, library_errors
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.source import Source, hub_errors

# Element type ("F32", "BF16", ...) and shape of each tensor in a file, by stored name.
Header = Mapping[str, tuple[str, tuple[int, ...]]]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_headers(source: Source) -> dict[str, Header]:
    """Return the header of each weights file by its name; of the Hub a few kilobytes are read, not
    the weights.

    Raises:
        PocketVLMError: no safetensors, a missing or damaged file, an unsafe name, or the Hub cannot
            be reached.
    """
    files = _weight_files(source)
    if not source.on_hub or all((source.folder / file).is_file() for file in files):
        return {file: _read_header(source.folder / file) for file in files}
    with hub_errors(source.model, source.commit):
        return {file: _fetch_header(source, file) for file in files}


def fetch_weights(source: Source) -> None:
    """Bring the weights of a checkpoint on the Hub to this machine; raises `PocketVLMError` where
    they cannot be."""
    if source.on_hub:
        with hub_errors(source.model, source.commit):
            huggingface_hub.snapshot_download(
                source.model, revision=source.commit, allow_patterns=_weight_files(source)
            )


def _weight_files(source: Source) -> list[str]:
    """Names of the files that transformers would read, in its order of preference; any other
    safetensors last."""
    place = source.place
    if _SINGLE in source.files:
        return [_SINGLE]
    index = source.folder / _INDEX
    listed = _indexed(index) if index.exists() else []
    missing = [file for file in listed if file not in source.files]
    files = listed or sorted(name for name in source.files if name.endswith(".safetensors"))
    if source.offline and (missing or not files):
        raise CheckpointError(
            f"the weights of {place} are not on this machine, and their sizes cannot be read while "
            "the Hub is out of reach",
            advice="connect (HF_HUB_OFFLINE unset), or download it elsewhere and give the folder",
        )
    if missing:
        raise CheckpointError(
            f"{place} lacks the shard {missing[0]} named in {_INDEX}",
            advice="download the rest of it",
        )
    if not files:
        raise _without_weights(source)
    return files


def _indexed(index: Path) -> list[str]:
    try:
        listed = sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index", advice="download the checkpoint again"
        ) from error
    for file in listed:
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(
                f"{index} names {file!r}, which is not a plain file name: it is not followed",
                advice="use a checkpoint from another source",
            )
    return listed


def _without_weights(source: Source) -> CheckpointError:
    pickles = sorted(name for name in source.files if name.endswith(_PICKLES))
    if pickles:
        return CheckpointError(
            f"{source.place} holds pickle weights only ({pickles[0]}), which can run code and are "
            "never loaded",
            advice="save the checkpoint as safetensors (model.save_pretrained with safetensors, or "
            "the Hub's convert space)",
        )
    return CheckpointError(
        f"{source.place} holds no *.safetensors weights", advice="give a complete checkpoint"
    )


def _read_header(file: Path) -> Header:
    with damaged(file), safe_open(file, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        return {
            name: (piece.get_dtype(), tuple(piece.get_shape())) for name, piece in slices.items()
        }


def damaged(file: Path) -> AbstractContextManager[None]:
    """Whatever the library raises of a weights file, as a `CheckpointError`."""
    return library_errors(
        lambda reason: CheckpointError(
            f"{file} is truncated or damaged ({reason})", advice="download it again"
        )
    )


def _fetch_header(source: Source, file: str) -> Header:
    try:
        metadata = huggingface_hub.parse_safetensors_file_metadata(
            source.model, file, revision=source.commit
        )
        return {
            name: (tensor.dtype, tuple(torch.Size(tensor.shape)))
            for name, tensor in metadata.tensors.items()
        }
    except (
        SafetensorsParsingError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # the header is untrusted
        raise CheckpointError(
            f"{file} of {source.model} is not a safetensors file ({first_line(error)})",
            advice="use another checkpoint",
        ) from error
