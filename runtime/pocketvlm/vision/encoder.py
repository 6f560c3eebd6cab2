"""Knows the vision graph: pixels in, kept visual tokens out, and how a smaller budget is served
from a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import (
    Artifact,
    Manifest,
    is_nested,
    pick_graph,
    pick_precision,
)
from pocketvlm.artifact.specs import CANDIDATE, CANDIDATE_FEATURES, VISION_OUTPUTS
from pocketvlm.errors import EngineError, RequestError
from pocketvlm.layouts import Medium, budget_beside, media_read
from pocketvlm.limits import whole
from pocketvlm.ort.outputs import check_finite, check_rising, check_shapes, shapes_of
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings, ProviderOption
from pocketvlm.vision.features import VisionFeatures
from pocketvlm.vision.selector import TokenSelector

_NAME = "the vision graph"


def open_beside(
    artifact: Artifact,
    *,
    budget: int | None = None,
    precision: str | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> dict[Medium, VisionEncoder]:
    """The vision graphs of the further media that an artifact reads, by medium; arguments and
    errors as of `VisionEncoder.open`.

    ``budget`` is of the artifact's first medium, see `pocketvlm.layouts.budget_beside`.
    """
    encoders: dict[Medium, VisionEncoder] = {}
    own = artifact.manifest.pruning.tokens_before
    for medium in media_read(artifact.manifest)[1:]:
        part = artifact.reading(medium)
        other = part.manifest.pruning.tokens_before
        within = None if budget is None else budget_beside(budget, own, other)
        encoders[medium] = VisionEncoder.open(
            part, budget=within, precision=precision, settings=settings
        )
    return encoders


class VisionEncoder:
    """The vision graph of one budget and precision, an opened session of the manifest's artifact.

    Where the method reads the prompt that graph gives all tokens, whatever the question, and
    ``selector`` takes some of them, see `select`; None for other methods. ``settings`` are those
    that the session was opened with.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        budget: int,
        precision: str,
        selector: TokenSelector | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> None:
        self._session: ort.InferenceSession | None = session
        self._selector = selector
        self._reads_prompt = selector is not None  # whatever is closed
        self._providers = settings.providers
        self.budget = budget
        self.precision = precision
        self.nested = is_nested(manifest)
        self._extras = manifest.vision.extras
        self._hidden = manifest.decoder.hidden
        self._most_tokens = manifest.pruning.tokens_before
        self._dynamic = manifest.vision.image_size is None

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        budget: int | None = None,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
        table: str | None = None,
    ) -> Self:
        """Open the graph that serves ``budget``: the one exported at it, else the next larger one.

        Args:
            artifact: an opened artifact.
            budget: visual tokens per tile; None is the artifact's default.
            precision: as named in the manifest; None is the artifact's default.
            settings: threads, providers of vision graphs and whether a float32 graph is prepacked.
            table: precision of the embedding table that a question is read by, where the method
                reads the prompt, see `TokenSelector.open`.

        Raises:
            PocketVLMError: no graph can serve the budget, or none has the precision.
        """
        manifest, settings = artifact.manifest, settings.for_vision
        k = pick_graph(manifest, budget)
        graphs = manifest.vision.graphs[k]
        precision = precision or manifest.vision.default_precision
        name = pick_precision(
            graphs, precision, f"vision graph at budget {k}", setting="vision_precision"
        )
        selects = not manifest.vision.selectors
        session = open_session(
            artifact,
            name,
            manifest.vision.graph_kind,
            budget=k if selects else None,
            settings=settings.for_precision(precision),
        )
        selector = (
            None if selects else TokenSelector.open(artifact, k, table=table, settings=settings)
        )
        return cls(session, manifest, k, precision, selector, settings)

    @property
    def reads_prompt(self) -> bool:
        """Whether `select` needs the question."""
        return self._reads_prompt

    @property
    def provider(self) -> str:
        """The execution provider that comes first; two of them round differently."""
        provider: str = self._opened().get_providers()[0]
        return provider

    @property
    def provider_options(self) -> Mapping[str, ProviderOption]:
        """What that provider was opened with: it may name another device, or another precision."""
        own = (each.options for each in self._providers if each.name == self.provider)
        return next(own, {})

    def close(self) -> None:
        """Free the graph and the selector: what was encoded stays, nothing further is encoded or
        selected."""
        self._session = self._selector = None

    def _opened(self) -> ort.InferenceSession:
        if self._session is None:
            raise _closed("the vision graph")
        return self._session

    def check_budget(self, budget: int) -> int:
        """Return ``budget`` if this graph serves it; raises `PocketVLMError` with what it
        serves."""
        budget = whole(budget, "budget")
        if budget == self.budget or (self.nested and 1 <= budget < self.budget):
            return budget
        served = f"1..{self.budget}" if self.nested else f"{self.budget} only"
        raise RequestError(
            f"budget {budget} is not served by the loaded graph ({served})",
            advice="load with that budget",
            setting="budget",
        )

    def encode(
        self, pixel_values: npt.NDArray[np.float32], tokens: int | None = None
    ) -> VisionFeatures:
        """Run the graph on ``pixel_values`` float32 (batch, 3, height, width), normalised as
        preprocessing does.

        Where resolution is dynamic, pictures with fewer tokens than the graph's budget keep all.
        Where the method reads the prompt all tokens are given, with a score of 0: see `select`.

        Args:
            pixel_values: see above.
            tokens: of each picture or tile before pruning, where the caller knows them; the most
                that the artifact allows if not given.

        Raises:
            EngineError: ONNX Runtime failed, or the outputs are not those of such pictures: other
                shapes, numbers of tokens that there are not, values that are not finite.
        """
        if self.reads_prompt:
            return self._candidates(pixel_values, tokens)
        outputs = self._run([*VISION_OUTPUTS, *self._extras], pixel_values)
        self._check(outputs, len(pixel_values), tokens)
        features, indices, scores = (outputs.pop(name) for name in VISION_OUTPUTS)
        return VisionFeatures(
            features,
            indices,
            scores,
            nested=self.nested,
            extras=outputs,
            complete=indices.shape[1] < self.budget,
        )

    def select(
        self, features: VisionFeatures, question: npt.NDArray[np.int64] | None = None
    ) -> VisionFeatures:
        """What is kept of pictures that were encoded, at the graph's budget.

        Args:
            features: from `encode`.
            question: token ids int64 (T,) of the user's text, without template, where the method
                reads the prompt; for other methods nothing is left to do.

        Raises:
            RequestError: the method reads the prompt, and there is none.
            EngineError: it is closed, and see `TokenSelector.select`.
        """
        if not self.reads_prompt:
            return features
        if self._selector is None:
            raise _closed("the token selector")
        if question is None:
            raise RequestError(
                "this artifact selects tokens by the question, and there is no question",
                advice="give a prompt",
                setting="prompt",
            )
        return self._selector.select(features, question)

    def _run(
        self, names: list[str], pixel_values: npt.NDArray[np.float32]
    ) -> dict[str, npt.NDArray[Any]]:
        with ort_errors(f"{_NAME} failed"):
            values = self._opened().run(names, {"pixel_values": pixel_values})
        return dict(zip(names, values, strict=True))

    def _candidates(
        self, pixel_values: npt.NDArray[np.float32], tokens: int | None
    ) -> VisionFeatures:
        """Every token of pictures, as features of which none was ranked."""
        extras = [CANDIDATE + name for name in self._extras]
        outputs = self._run([CANDIDATE_FEATURES, *extras], pixel_values)
        batch, features = len(pixel_values), outputs.pop(CANDIDATE_FEATURES)
        if not self._dynamic:
            tokens = self._most_tokens
        elif tokens is None:  # as many as there are, as long as all outputs agree
            tokens = min(self._most_tokens, max((1, *features.shape[1:2])))
        shapes = shapes_of({CANDIDATE_FEATURES: features, **outputs})
        check_shapes(_NAME, shapes, dict.fromkeys(shapes, (batch, tokens, self._hidden)))
        for name, values in ((CANDIDATE_FEATURES, features), *outputs.items()):
            check_finite(_NAME, name, values)
        every = np.tile(np.arange(tokens, dtype=np.int64), (batch, 1))
        return VisionFeatures(
            features,
            every,
            np.zeros(every.shape, dtype=np.float32),
            nested=False,
            extras={name.removeprefix(CANDIDATE): values for name, values in outputs.items()},
        )

    def _check(
        self, outputs: Mapping[str, npt.NDArray[Any]], batch: int, tokens: int | None
    ) -> None:
        features, indices, scores = VISION_OUTPUTS
        if not self._dynamic:
            kept = self.budget
        elif tokens is not None:
            kept = min(self.budget, tokens)
        else:  # whatever it kept, as long as all outputs agree
            kept = min(self.budget, max((1, *outputs[indices].shape[1:2])))
        wide = (batch, kept, self._hidden)
        expected = {features: wide, indices: (batch, kept), scores: (batch, kept)}
        check_shapes(_NAME, shapes_of(outputs), expected | dict.fromkeys(self._extras, wide))
        check_rising(_NAME, indices, outputs[indices], tokens or self._most_tokens)
        for name in (features, scores, *self._extras):
            check_finite(_NAME, name, outputs[name])


def _closed(what: str) -> EngineError:
    return EngineError(f"{what} is closed", advice="load the model again")
