"""Knows what a finished tuning writes to files: the report, the target, the choice as a folder."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pocketvlm.artifact import Artifact
from pocketvlm.errors import RequestError
from pocketvlm_measure.cli.output import check_outputs, write_text
from pocketvlm_measure.tune.reduced import check_output, write_reduced
from pocketvlm_measure.tune.tuning import Tuning

_TOML = ".toml"
_WORDS = "pocketvlm_measure.tune words"  # in a context's meta


@dataclass(frozen=True)
class About:
    """What files say of a tuning beside its figures.

    Attributes:
        model: what was tuned, as it was named.
        machine: a line about what was measured on.
        notes: what else to know, a sentence each.
        memory_limit: MB that a target may state, see `written.Chosen`.
    """

    model: str
    machine: str
    notes: Sequence[str] = ()
    memory_limit: int | None = None


class Recalled(click.Command):
    """A command that keeps its words, so that it can say how to continue."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, the words kept in ``ctx.meta``."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


def kept(answers: Path, tuning: Tuning) -> Iterator[str]:
    """Where answers and times lie, and where the time was up the command that continues."""
    from pocketvlm_measure.tune.measured import times_beside
    from pocketvlm_measure.tune.tables import duration

    yield f"answers: {answers}; times: {times_beside(answers)}"
    ctx = click.get_current_context(silent=True)
    if tuning.time_up and ctx is not None and _WORDS in ctx.meta:
        words = _without_time(ctx.meta[_WORDS])
        again = [*words, "--time", duration(2 * tuning.limits.time), "--resume"]
        yield f"continue: {ctx.command_path} {shlex.join(again)}"


def _without_time(words: Sequence[str]) -> list[str]:
    """The words of a command less ``--time``, its value and ``--resume``."""
    left = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("--time=") or word in ("--time", "--resume") or before == "--time":
            continue
        left.append(word)
    return left


@dataclass(frozen=True)
class Outputs:
    """Where a tuning goes; None where something is not asked for.

    Attributes:
        report: a page, HTML.
        target: a deployment target, TOML.
        export: the folder of the choice.
    """

    report: Path | None = None
    target: Path | None = None
    export: Path | None = None

    def check(self, inputs: Iterable[Path] = ()) -> None:
        """Refuse, before anything is measured, what could not be written; raises `RequestError`."""
        check_outputs([path for path in (self.report, self.target) if path is not None], inputs)
        if self.target is not None and self.target.suffix != _TOML:
            raise RequestError(
                f"--write-target {self.target} is not a name of a target",
                expected=f"a file that ends in {_TOML}",
                setting="write_target",
            )
        if self.export is not None:
            check_output(self.export)

    def write(self, tuning: Tuning, about: About) -> Iterator[str]:
        """Write them; yields a line about each. Where nothing was chosen there is only a report.

        Raises:
            PocketVLMError: see `write_reduced`; what was written before it stays.
        """
        if self.report is not None:
            from pocketvlm_measure.tune.report import to_html

            page = to_html(tuning, about.model, about.machine, about.notes)
            write_text(self.report, page)
            yield f"{self.report}: the frontier, and why what was ruled out"
        chosen = tuning.chosen
        if chosen is None or (self.target is None and self.export is None):
            return
        artifact = Artifact.open(chosen.candidate.folder)
        if self.target is not None:
            write_text(self.target, _target(tuning, artifact, about))
            yield f"{self.target}: give it as --target to `pocketvlm export` and to what answers"
        if self.export is not None:
            manifest = write_reduced(artifact, chosen.candidate.case, self.export)
            size = sum(entry.bytes for entry in manifest.files.values())
            yield f"{self.export}: {size / 1e6:.1f} MB, answers as chosen: {chosen.candidate.case}"
            if artifact.manifest.self_test is not None and manifest.self_test is None:
                yield (
                    f"{self.export} has no self-test, which only the exporter could measure again: "
                    "it answers on the CPU alone"
                )


def _target(tuning: Tuning, artifact: Artifact, about: About) -> str:
    from pocketvlm_measure.tune.written import Chosen, written

    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return written(
        Chosen(
            tuning,
            artifact.manifest,
            about.model,
            about.machine,
            today,
            about.memory_limit,
        )
    )
