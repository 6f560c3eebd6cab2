"""Knows what `--baseline` names: a budget of the same artifact, or another artifact that answers
too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketvlm.artifact import Artifact
from pocketvlm.errors import RequestError
from pocketvlm_measure.cases import Case
from pocketvlm_measure.evaluation.plan import Subject, baseline_cases, subjects
from pocketvlm_measure.evaluation.run import Answered, Evaluation
from pocketvlm_measure.evaluation.summary import Baseline, budget, most_tokens


@dataclass(frozen=True)
class Against:
    """What cases are compared with.

    Attributes:
        tokens: a budget of the same artifact; None where it is not a budget.
        content_id: of another artifact; None where it is not an artifact.
        cases: for each case the other artifact's.
        subjects: the other artifact's, which are asked too.
    """

    tokens: int | None = None
    content_id: str | None = None
    cases: dict[Case, Case] = field(default_factory=dict)
    subjects: Sequence[Subject] = ()

    def of(self, evaluation: Evaluation) -> Baseline:
        """The baseline of each case of an evaluation; the other artifact's own cases have none."""
        if self.content_id is not None:
            return lambda answered: self._other(evaluation, answered)
        return most_tokens(evaluation) if self.tokens is None else budget(evaluation, self.tokens)

    def _other(self, evaluation: Evaluation, answered: Answered) -> Answered | None:
        if answered.subject.content_id == self.content_id:
            return None
        case = self.cases[answered.case]
        return next(
            other
            for other in evaluation.answered
            if other.subject.content_id == self.content_id and other.case == case
        )


def budget_named(baseline: str | None) -> int | None:
    """The number of tokens that ``--baseline`` names; None where it names something else, or
    nothing."""
    return int(baseline) if baseline is not None and baseline.isdecimal() else None


def against(baseline: str | None, asked: Sequence[Subject], workers: int) -> Against:
    """What ``--baseline`` names; nothing means the most visual tokens of each family.

    Raises:
        PocketVLMError: it is not an artifact, or the one that is evaluated.
    """
    if baseline is None or budget_named(baseline) is not None:
        return Against(tokens=budget_named(baseline))
    artifact = Artifact.open(baseline)
    if artifact.manifest.content_id == asked[0].content_id:
        raise RequestError(
            f"--baseline {baseline} is the artifact that is evaluated",
            advice="name another artifact, or a budget",
            setting="baseline",
        )
    cases = [case for subject in asked for case in subject.cases]
    pairs = baseline_cases(artifact.manifest, cases)
    others = subjects(
        artifact.root,
        artifact,
        dict.fromkeys(pairs.values()),
        workers,
        shares_prefill=asked[0].shares_prefill,
    )
    return Against(None, artifact.manifest.content_id, pairs, others)
