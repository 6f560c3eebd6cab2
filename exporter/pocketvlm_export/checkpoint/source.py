"""Knows where a checkpoint comes from: a local folder, the Hugging Face Hub, or the demo that is
shipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import CheckpointError, RequestError, first_line
from pocketvlm.files import user_path
from pocketvlm_export import upstream

DEMO = "demo"
# Not there in every installation, so it is looked for where it is asked for.
DEMO_FOLDER = Path(__file__).parent.parent / "demo_checkpoint"
# With half of its decoder, for `pocketvlm run --guide`.
GUIDE, GUIDE_FOLDER = "demo-guide", DEMO_FOLDER.with_name("demo_guide_checkpoint")
# Weights as safetensors, everything else as text: a pickle or a script of the repository never
# reaches this machine.
_TEXTS = ["*.json", "*.jinja", "README.md"]


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine; of one on the Hub the weights may be there still.

    Attributes:
        model: as the person named it.
        folder: where its files lie; never written to.
        commit: the Hub commit they were taken from, None for local folders.
        files: names of all its files, whether or not they were fetched.
        offline: the Hub could not be asked, ``files`` are those that were fetched another time.
    """

    model: str
    folder: Path
    files: frozenset[str]
    commit: str | None = None
    on_hub: bool = False
    offline: bool = False

    @property
    def place(self) -> str:
        """What a message calls it: a Hub id or a folder."""
        return self.model if self.on_hub else str(self.folder)

    @property
    def name(self) -> str:
        """What an artifact names as its source: a Hub id, or a folder's last part, never a path of
        this machine."""
        return self.model if self.on_hub else user_path(self.model).resolve().name


def locate(model: str, revision: str | None = None) -> Source:
    """Find ``model``: an existing folder first, then ``demo`` or ``demo-guide``, then a Hub id at
    ``revision`` (downloaded or cached).

    Of the Hub everything but the weights is fetched. ``HF_HUB_OFFLINE`` and the usual cache
    variables are honoured by huggingface_hub.

    Raises:
        PocketVLMError: no such folder, a revision given for a folder, or the Hub's refusal in one
            line.
    """
    folder = user_path(model)
    if revision is not None and (model in (DEMO, GUIDE) or folder.is_dir()):
        raise RequestError(
            f"--revision {revision} was given with {model}, which is not on the Hub",
            advice="leave it out",
            setting="revision",
        )
    if (folder / MANIFEST_NAME).is_file():
        raise _no_checkpoint(model)
    if model == DEMO and not folder.is_dir():
        return _demo()
    if model == GUIDE and not folder.is_dir():
        return _demo(GUIDE, GUIDE_FOLDER)
    if folder.is_dir():
        return Source(model, folder.resolve(), _names(folder))
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointError(
            f"no such folder: {model}",
            advice=f"give a checkpoint folder, a Hub id like llava-hf/llava-1.5-7b-hf, or {DEMO!r}",
        )
    return _from_hub(model, revision)


def _no_checkpoint(model: str) -> CheckpointError:
    """The refusal of a folder that an export wrote."""
    if model in (DEMO, GUIDE):
        return CheckpointError(
            f"./{model} is a PocketVLM artifact, not a checkpoint",
            advice=f"rename it, or run elsewhere to export the shipped {model}",
        )
    return CheckpointError(
        f"{model} is a PocketVLM artifact, not a checkpoint",
        advice="give the checkpoint that it was exported from",
    )


def _demo(name: str = DEMO, folder: Path | None = None) -> Source:
    folder = folder or DEMO_FOLDER
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the {name} checkpoint is not part of this installation ({folder})",
            advice="install pocketvlm from its repository or give another checkpoint",
        )
    return Source(name, folder, _names(folder))


def _from_hub(model: str, revision: str | None) -> Source:
    with hub_errors(model, revision):
        folder = Path(
            huggingface_hub.snapshot_download(model, revision=revision, allow_patterns=_TEXTS)
        )
    try:
        files, offline = (
            frozenset(huggingface_hub.list_repo_files(model, revision=folder.name)),
            False,
        )
    except (upstream.HubTransportError, OSError):
        files, offline = _names(folder), True
    return Source(model, folder, files, commit=folder.name, on_hub=True, offline=offline)


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


@contextmanager
def hub_errors(model: str, revision: str | None) -> Iterator[None]:
    """Turn whatever fetching from the Hub raises into one line."""
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{model} is gated", advice="accept its terms on huggingface.co and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{model} has no revision {revision!r}",
            advice="choose one of its commits, tags or branches on huggingface.co",
            setting="revision",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"no such folder and no such model on the Hub: {model}", advice="check the name"
        ) from error
    except (upstream.HubTransportError, OSError) as error:
        raise CheckpointError(
            f"no such folder: {model}, and it cannot be fetched from the Hub ({first_line(error)})",
            advice="check the name and the network, or download it elsewhere and give the folder",
        ) from error
