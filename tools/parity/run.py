"""Knows the order of work: one artifact after the other, Hugging Face's answers first, then those
of every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from parity.cases import DEFAULT, NONE, Setting, artifact_of, form_of, settings_of
from parity.compare import SAMPLING, ask, compare
from parity.drawn import Message, draw, refused
from parity.rows import Rows
from parity.theirs import Pruned, Theirs, Whole
from pocketvlm.artifact import Artifact
from pocketvlm.layouts import media_read
from pocketvlm_export.loading import Checkpoint, open_checkpoint, reading
from pocketvlm_export.memory import collecting_own_garbage, component
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification import as_exported
from pocketvlm_measure.progress import progress

METHODS = (DEFAULT, NONE)
SEED = 0

Ask = Callable[[Sequence[Message]], Theirs]


def run(build: Path, name: str, method: str, count: int, rows: Rows) -> None:
    """Compare one artifact in every setting, as far as ``rows`` does not have it.

    Args:
        build: folder of checkpoints and artifacts.
        name: of the checkpoint.
        method: `METHODS`.
        count: questions.
        rows: where comparisons go.
    """
    source, folder = artifact_of(build, name, method)
    compare_artifact(source, folder, (name, method), list(settings_of(folder)), count, rows)


def compare_artifact(
    source: str,
    folder: Path,
    of: tuple[str, str],
    settings: Sequence[Setting],
    count: int,
    rows: Rows,
) -> None:
    """As `run`, of an artifact in ``folder`` that was exported of the checkpoint ``source``; ``of``
    are the names of checkpoint and method."""
    missing = {
        setting: [n for n in range(count) if (*of, setting.name, n) not in rows.by_key]
        for setting in settings
    }
    numbers = sorted({number for each in missing.values() for number in each})
    if not numbers:
        return
    artifact = Artifact.open(folder, "sizes")
    questions = draw_for(folder, of[0], count)
    read = reading(open_checkpoint(source), media_read(artifact.manifest)[0])
    with (
        collecting_own_garbage(),  # the gate's side collects after every picture
        asked(as_exported(read, artifact), artifact, of[1]) as ask_theirs,
    ):
        bar = progress(numbers, desc=f"{' '.join(of)}, Hugging Face")
        theirs = {number: ask_theirs(questions[number]) for number in bar}
    for setting, numbers_missing in missing.items():
        with closing(setting.load(folder)) as vlm:
            for number in progress(numbers_missing, desc=f"{' '.join(of)}, {setting.name}"):
                row = compare(ask(vlm, questions[number]), theirs[number])
                rows.add((*of, setting.name, number), row)


def draw_for(folder: Path, name: str, count: int) -> list[list[Message]]:
    """The questions that an artifact is asked, of those that fit into its context."""
    with closing(Setting("fp32").load(folder)) as vlm:
        fits = refused(lambda messages: vlm.prepare(messages=messages, sampling=SAMPLING))
        return draw(SEED, count, form_of(name), fits)


@contextmanager
def asked(checkpoint: Checkpoint, artifact: Artifact, method: str) -> Iterator[Ask]:
    """What gives Hugging Face's answers: the class itself, or the gate's reference where tokens are
    dropped."""
    if method == NONE:
        yield Whole(checkpoint, artifact).ask
        return
    family, spec = checkpoint.family, checkpoint.spec
    with (
        quiet_transformers(),
        component(family.load_embedding(checkpoint.weights, spec)) as embedding,
        component(family.load_decoder(checkpoint.weights, spec, attention="eager")) as decoder,
    ):
        yield Pruned(checkpoint, artifact, embedding, decoder).ask
