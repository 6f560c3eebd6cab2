"""Knows how a named model becomes an opened checkpoint: located, identified, parsed by its family, weights indexed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers

from pocketvlm import PocketVLMError
from pocketvlm_export.checkpoint import Source, Weights, fetch_weights, locate, read_config, read_headers
from pocketvlm_export.families import FAMILIES, Family, VLMSpec
from pocketvlm_export.requirements import check_transformers


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: where it lies, what it is, and its weights, none of which is loaded yet."""

    source: Source
    spec: VLMSpec
    weights: Weights

    @property
    def family(self) -> Family:
        """How the parts of this checkpoint are built."""
        return self.spec.family


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open ``model`` (folder, Hub id or ``demo``); raises `PocketVLMError` for whatever cannot be exported."""
    return fetch(inspect_checkpoint(model, revision))


def inspect_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open ``model`` without its weights: of those on the Hub only names, types and shapes are read, see `fetch`.

    Raises:
        PocketVLMError: whatever of ``model`` cannot be exported.
    """
    check_transformers()
    source = locate(model, revision)
    with quiet_transformers():
        config = read_config(source, frozenset(FAMILIES))
    spec = FAMILIES[config.model_type].parse(config)
    return _indexed(source, spec)


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """Bring the weights to this machine and return the checkpoint with what their files say there."""
    if not checkpoint.source.on_hub:
        return checkpoint
    fetch_weights(checkpoint.source)
    return _indexed(checkpoint.source, checkpoint.spec)


def _indexed(source: Source, spec: VLMSpec) -> Checkpoint:
    return Checkpoint(source, spec, Weights(source.folder, read_headers(source), spec.family.canonical))


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer as transformers builds it from ``folder``, without running any code of the checkpoint.

    Raises:
        PocketVLMError: its files cannot be read.
    """
    try:
        with quiet_transformers():
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises the bare base class
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise PocketVLMError(f"{folder / 'tokenizer.json'} cannot be read ({reason}): download it again") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own notices and bars off the terminal while this exporter uses it, then restore them."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
