"""Knows how the questions about a picture are answered: it is encoded once for all of them and all
budgets, and prefilled once a budget where prefills are shared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pocketvlm import Limits, Sampling, SequenceLimits
from pocketvlm.answer import GuidedAnswer
from pocketvlm.artifact import Artifact, is_nested
from pocketvlm.decoders import open_decoder
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.guided import Guided
from pocketvlm.layouts import open_layouts
from pocketvlm.vision.encoder import VisionEncoder, open_beside
from pocketvlm.vlm import VLM
from pocketvlm_measure.cases import Case
from pocketvlm_measure.evaluation.media import Opened, fingerprint, open_media
from pocketvlm_measure.evaluation.plan import GuideOf, Subject, Task, baseline_cases
from pocketvlm_measure.evaluation.questions import Question


@dataclass(frozen=True)
class Reply:
    """The result of one question at one budget.

    Attributes:
        line: the question's.
        budget: visual tokens per picture or tile.
        text: the answer without spaces around it; empty where there is none.
        tokens: how many were generated.
        visual_tokens: those of its pictures and clips that the decoder read.
        ttft_ms: milliseconds to the first token, with encoding the pictures, which later questions
            about them do not repeat; without loading. None where an earlier question shared its
            prefill.
        error: why there is no answer, as one line; None where there is one.
        media: `fingerprint` of what it was about; None where that is in the set itself.
        answered_by: ``"guide"`` or ``"model"`` where there is a guide; else None.
    """

    line: int
    budget: int
    text: str = ""
    tokens: int = 0
    visual_tokens: int = 0
    ttft_ms: float | None = 0.0
    error: str | None = None
    media: str | None = None
    answered_by: str | None = None


class Asker:
    """A subject, loaded. All budgets share the decoder, and a vision graph where the method is
    nested."""

    def __init__(self, subject: Subject) -> None:
        first = subject.cases[0]
        whole = Artifact.open(subject.folder)
        artifact = first.of(whole)
        if artifact.manifest.content_id != subject.content_id:
            raise RequestError(
                f"{subject.folder} has changed since the run began",
                expected=f"the artifact {subject.artifact_id}",
                advice="begin again",
            )
        for case in subject.cases:
            case.ensure_trusted(whole)
        budgets = [case.budget for case in subject.cases]
        self._layouts = open_layouts(artifact)
        self._shares_prefill = subject.shares_prefill
        vlms = _opened(artifact, first, budgets, shares_prefill=subject.shares_prefill)
        self._vlms: Mapping[int, VLM | Guided] = vlms
        if subject.guide is not None:
            self._vlms = _guided(vlms, subject.guide, first, budgets)

    def answer(self, task: Task) -> Iterator[Reply]:
        """Answer a task's questions one by one; a refused picture, clip or question gives replies
        with an ``error``."""
        asked, first = task.asked, task.asked[0][0]
        # Before they are read: a file that changes meanwhile counts as changed.
        media = fingerprint(first.media) or None
        try:
            opened = open_media(self._layouts, first.images, first.videos)
        except PocketVLMError as error:
            yield from (
                Reply(question.line, budget, error=str(error))
                for question, left in asked
                for budget in left
            )
            return
        encode_ms: dict[tuple[str, int], float] = {}
        # A budget after the other, so that the sequence before has the same visual tokens.
        for budget in dict.fromkeys(budget for _, left in asked for budget in left):
            is_prefilled = False
            for question in (question for question, left in asked if budget in left):
                reply = self._answer(question, opened, budget, task.max_new_tokens, encode_ms)
                if is_prefilled:
                    reply = dataclasses.replace(reply, ttft_ms=None)
                is_prefilled |= self._shares_prefill and reply.error is None
                yield dataclasses.replace(reply, media=media)

    def _answer(
        self,
        question: Question,
        opened: Opened,
        budget: int,
        max_new_tokens: int,
        encode_ms: dict[tuple[str, int], float],
    ) -> Reply:
        """One reply; ``encode_ms`` remembers how long each graph of each model took to encode the
        media, the first time."""
        graph = budget if budget in self._vlms else max(self._vlms)
        asked = self._vlms[graph]
        try:
            answer = asked.generate(
                question.text,
                opened.images,
                videos=opened.videos,
                budget=budget,
                sampling=Sampling(max_new_tokens=max_new_tokens),
            )
        except PocketVLMError as error:
            return Reply(question.line, budget, error=str(error))
        parts = {("model", graph): answer.timings_ms["vision"]}
        by = None
        if isinstance(asked, Guided) and isinstance(answer, GuidedAnswer):
            by = answer.answered_by
            parts = parts if by == "model" else {}
            parts["guide", asked.guide.budget] = answer.guide.timings_ms["vision"]
        for part, spent in parts.items():
            encode_ms[part] = max(encode_ms.get(part, 0.0), spent)
        again = sum(encode_ms[part] - spent for part, spent in parts.items())
        return Reply(
            question.line,
            budget,
            answer.text.strip(),
            len(answer.token_ids),
            answer.visual_tokens["after"],
            round(answer.timings_ms["ttft"] + again, 3),
            answered_by=by,
        )


def _opened(
    artifact: Artifact, case: Case, budgets: Sequence[int], *, shares_prefill: bool = False
) -> dict[int, VLM]:
    """An artifact in a case's engine and precisions, by the budget of the vision graph: one where
    the method is nested."""
    # Fixed runs: no answer depends on which question came first.
    limits = Limits(sequences=SequenceLimits(fixed_runs=True)) if shares_prefill else None
    decoder = open_decoder(
        artifact,
        engine=case.decoder,
        precision=case.decoder_precision,
        settings=case.settings,
    )
    precision, settings = case.vision_precision, case.settings
    vlms = {}
    for budget in [max(budgets)] if is_nested(artifact.manifest) else budgets:
        encoder = VisionEncoder.open(
            artifact, budget=budget, precision=precision, settings=settings
        )
        beside = open_beside(artifact, budget=budget, precision=precision, settings=settings)
        vlms[budget] = VLM(
            artifact,
            encoder,
            decoder,
            limits=limits,
            keep_features=True,
            keep_sequences=shares_prefill,
            beside=beside,
        )
    return vlms


def _guided(
    vlms: Mapping[int, VLM], guide: GuideOf, case: Case, budgets: Sequence[int]
) -> dict[int, Guided]:
    """The models with their guide, in its own default engine and precisions, and at a budget of its
    own where it only answers."""
    artifact = Artifact.open(guide.folder)
    if artifact.manifest.content_id != guide.content_id:
        raise RequestError(f"{guide.folder} has changed since the run began", advice="begin again")
    (own,) = baseline_cases(artifact.manifest, [case]).values()
    own = dataclasses.replace(
        own, decoder_precision=artifact.manifest.decoder.default_precisions[own.decoder]
    )
    if not any(vlm.artifact.manifest.decoder.reads_scores for vlm in vlms.values()):
        budgets = [artifact.manifest.pruning.default_budget]
    own.ensure_trusted(artifact)
    guides = _opened(own.of(artifact), own, budgets)
    return {
        budget: Guided(vlm, guides.get(budget, guides[max(guides)]), confidence=guide.confidence)
        for budget, vlm in vlms.items()
    }


def answer_task(task: Task) -> list[Reply]:
    """Answer a task in this process, which keeps the last subject loaded."""
    return list(_asker(task.subject).answer(task))


@functools.lru_cache(maxsize=1)
def _asker(subject: Subject) -> Asker:
    return Asker(subject)
