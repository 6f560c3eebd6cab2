"""Knows what can be asked of a loaded artifact: an answer, a stream, a conversation. The runtime's
front door."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from pocketvlm.answer import Answer
from pocketvlm.answering import Answerer, Request, ms_since
from pocketvlm.artifact import Artifact, Check
from pocketvlm.artifact.integrity import graph_digest
from pocketvlm.chat import Chat
from pocketvlm.decoders import choose_decoder, open_decoder
from pocketvlm.decoders.base import Decoder
from pocketvlm.decoders.late import LateDecoder
from pocketvlm.decoders.sampling import GREEDY, Sampling, check_sampling, checkpoint_sampling
from pocketvlm.errors import ArtifactError
from pocketvlm.files import user_path
from pocketvlm.layouts import Medium, open_layouts
from pocketvlm.limits import Limits
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.ort.settings import CPU_PROVIDER, DEFAULT_SETTINGS, EngineSettings
from pocketvlm.selftest import ensure_trusted
from pocketvlm.text.messages import Message
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.encoder import VisionEncoder, open_beside
from pocketvlm.vision.feature_cache import FeatureCache, FeatureSource
from pocketvlm.vision.viewer import Viewer


class VLM:
    """A vision-language model loaded from an artifact.

    **Threads.** Any number of threads may ask one object at once, and any number of streams may be
    open: every answer is what it would be alone. Each answer has a KV cache of its own, each `Chat`
    one that lasts. The engines compute one step at a time (one picture encoded, one prefill, one
    token), and the next step is that of the answer that has waited longest. Between steps nothing
    is held: a stream that nobody reads delays nobody. A single `Stream` or `Chat` is used by one
    thread at a time, except for `Stream.stop`. After `close` nothing can be asked; answers under
    way end as they would. A process that is forked afterwards loads the model again: the engines'
    threads stay behind, so what was loaded before is refused there.

    **What is kept.** Features of pictures, and the KV caches of the latest answers, within
    `Limits`: a prompt goes on from whatever begins as it does. A second question about a picture
    costs neither the tower nor the picture's prefill, where what is kept does not depend on the
    question. Whether something was kept or is computed again, in float32 the answers are those of a
    model that keeps nothing, `NOTHING_KEPT`. int8 decoders measure the activations of each run, so
    logits differ a little by how a prompt was divided; `SequenceLimits.fixed_runs` divides every
    one alike.

    Attributes:
        artifact: what was loaded.
        budget: visual tokens per tile where a request names none.
        checkpoint_sampling: how the checkpoint was published to answer: what a `Sampling` takes
            what it leaves out from, temperature and the like where its ``base`` is
            ``"checkpoint"``.
        precision_reason: why `decoder` answers in the precision that it does.
        parts: prompter, viewer and decoder behind it, for tests and tools: an `Answerer`, which may
            change from release to release.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        decoder: Decoder,
        *,
        limits: Limits | None = None,
        feature_cache: str | os.PathLike[str] | None = None,
        keep_features: bool = False,
        keep_sequences: bool = False,
        beside: Mapping[Medium, VisionEncoder] | None = None,
    ) -> None:
        """Put opened parts together, see `load`. Several objects may share a decoder, so `close`
        leaves it to whoever opened it.

        ``keep_features``: `generate` keeps them in memory too, where many questions are about the
        same picture. ``keep_sequences``: answers go on from what others have left of their prompt,
        see `SequenceLimits`; else each is computed as if it were the first. ``beside``: the vision
        graphs of further media that the artifact reads, see
        `pocketvlm.vision.encoder.open_beside`; those without one are refused in questions.
        """
        limits = limits or Limits()
        folder = None if feature_cache is None else user_path(feature_cache)

        def view(part: Artifact, graph: VisionEncoder, others: Sequence[Viewer] = ()) -> Viewer:
            source = _feature_source(part, graph, kept=folder is not None)
            cache = FeatureCache(source, limits.features, folder)
            return Viewer(part, graph, limits, cache, others)

        others = [view(artifact.reading(name), graph) for name, graph in (beside or {}).items()]
        viewer = view(artifact, encoder, others)
        prompter = Prompter.from_artifact(artifact)
        self.artifact = artifact
        self.parts = Answerer(artifact.manifest, viewer, decoder, prompter, limits.sequences)
        self.checkpoint_sampling: Sampling = self.parts.sampling
        self.budget: int = encoder.budget
        self.precision_reason: str = "opened apart"
        self._owns_decoder = False
        self._keeps_features = keep_features or folder is not None
        self._keeps_sequences = keep_sequences

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        decoder: str | None = None,
        budget: int | None = None,
        vision_precision: str | None = None,
        decoder_precision: str | None = None,
        context: int | None = None,
        max_pixels: int | None = None,
        max_tiles: int | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
        limits: Limits | None = None,
        feature_cache: str | os.PathLike[str] | None = None,
        check: Check = "auto",
        once: bool = False,
    ) -> Self:
        """Load an artifact.

        Args:
            path: a folder written by `pocketvlm export`.
            decoder: engine, ``"onnx"`` or ``"llama.cpp"``; None is the artifact's default.
            budget: visual tokens per tile, the default of `generate`; None is the artifact's
                default.
            vision_precision: None is the artifact's default.
            decoder_precision: for llama.cpp the type of the GGUF file. With ONNX Runtime ``A+B``
                prefills in A and decodes in B, as in ``int8+int4``. None is the artifact's default,
                or its pair where memory allows both, ``settings.memory_limit`` or what is free:
                `precision_reason` says which and why.
            context: longest sequence in tokens, at most the artifact's own, which None leaves: a
                bound on memory.
            max_pixels: pictures are resized to at most so many pixels, height times width, where
                the artifact takes them of any size: less work before the first token. At most the
                artifact's own limit, which None leaves.
            max_tiles: pictures are cut into at most so many parts, where the artifact cuts them;
                as ``max_pixels``.
            settings: threads, execution providers and prepacking of each engine.
                ``EngineSettings(prepack=False)`` is for a question or two: float32 graphs then open
                at once, as mapped files, and each answer takes up to half as long again. Where
                another provider than the CPU's own computes, the artifact's self-test is run
                before, once for each device, see `pocketvlm.selftest.ensure_trusted`.
            limits: what is refused or forgotten for its size; None is the defaults of `Limits`.
            feature_cache: a folder for the features of pictures, so that none is encoded twice, in
                another process or on another day either. None keeps them in memory.
            check: ``"auto"`` reads files whose checksum was not yet verified, ``"full"`` all,
                ``"sizes"`` none.
            once: for a process that answers one question, with ONNX Runtime: the decoder is opened
                when the pictures are encoded and the vision graphs are freed, so memory never holds
                both. Further pictures are refused then, and no sequence is kept for further
                questions.

        Raises:
            ArtifactError: the folder is not a sound artifact.
            RequestError: it lacks what is asked for.
            EngineError: an engine is missing, cannot open a graph, or fails the self-test.
        """
        started = time.perf_counter()
        whole = Artifact.open(path, check)
        artifact = whole.shortened(context).capped(max_pixels=max_pixels, max_tiles=max_tiles)
        open_layouts(artifact)  # what these refuse is refused before graphs are opened
        checkpoint_sampling(artifact.manifest.generation)
        kind, choice = choose_decoder(
            artifact, engine=decoder, precision=decoder_precision, settings=settings
        )
        ensure_trusted(
            whole,
            settings,
            budget=budget,
            vision_precision=vision_precision,
            decoder=kind,
            decoder_precision=choice.precision,
        )
        encoder = VisionEncoder.open(
            artifact, budget=budget, precision=vision_precision, settings=settings
        )
        engine: Decoder
        if once and LateDecoder.suits(kind):
            engine = LateDecoder(
                artifact,
                kind,
                precision=choice.precision,
                settings=settings,
                before=lambda: vlm.parts.viewer.close(),
                after=lambda spent_ms: vlm.parts.loaded_late(spent_ms),
            )
        else:
            engine = open_decoder(
                artifact, engine=kind, precision=choice.precision, settings=settings
            )
        beside = open_beside(artifact, budget=budget, precision=vision_precision, settings=settings)
        vlm = cls(
            artifact,
            encoder,
            engine,
            limits=limits,
            feature_cache=feature_cache,
            keep_features=True,
            keep_sequences=not once,
            beside=beside,
        )
        vlm._owns_decoder = True
        budget = artifact.manifest.pruning.default_budget if budget is None else budget
        vlm.budget = vlm.parts.viewer.check_budget(budget)
        vlm.parts.load_ms = ms_since(started)
        vlm.precision_reason = choice.reason
        return vlm

    @property
    def decoder(self) -> str:
        """The engine and precision that answer, as in ``"onnx fp32"``."""
        return self.parts.decoder.name

    @property
    def cache_bytes(self) -> int:
        """Bytes of KV cache that answers under way, conversations and kept sequences take now."""
        return self.parts.pool.cache_bytes

    def generate(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        videos: Sequence[Video] | None = None,
        budget: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Answer:
        """Answer a question about pictures, about clips where the model reads those, or about none.

        >>> vlm.generate("What is in the picture?", images=["photo.jpg"]).text
        >>> vlm.generate(
        ...     messages=[
        ...         {"role": "system", "content": "Answer with one word."},
        ...         {
        ...             "role": "user",
        ...             "content": [
        ...                 {"type": "image", "image": "photo.jpg"},
        ...                 {"type": "text", "text": "What is in the picture?"},
        ...             ],
        ...         },
        ...     ],
        ...     sampling=Sampling(max_new_tokens=8),
        ... ).text

        Args:
            prompt: the question; ``<image>`` in it places a picture, ``<video>`` a clip, else they
                come first.
            images: pictures of the prompt: paths, file contents, PIL images or uint8 arrays
                (height, width[, 1 | 3 | 4]).
            messages: in place of prompt, images and videos, a whole conversation with its pictures
                or clips in it, see `pocketvlm.text.messages.MessageReader.read`.
            videos: clips of the prompt: paths, file contents or lists of frames; for models that
                read clips, in place of pictures or beside them. Each frame of a clip keeps
                ``budget`` tokens.
            budget: visual tokens per tile, up to those of the loaded graph; None is what was loaded
                for.
            sampling: how tokens are picked, and when the answer ends; greedy by default.

        Raises:
            RequestError: a message, budget or setting that is refused, or a prompt beyond the
                context.
            PictureError: a picture or clip that is refused.
            EngineError: an engine failed while it computed.
        """
        return self.stream(
            prompt, images, messages=messages, videos=videos, budget=budget, sampling=sampling
        ).answer

    def stream(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        videos: Sequence[Video] | None = None,
        budget: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Stream:
        """As `generate`, in text pieces: iterate, then read ``.answer``. Refusals come at once, not
        while iterating."""
        request = self.prepare(
            prompt, images, messages=messages, videos=videos, budget=budget, sampling=sampling
        )
        return self.parts.begin(request)

    def prepare(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        videos: Sequence[Video] | None = None,
        budget: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Request:
        """The question of `stream` made ready, with all that can be refused checked; for tests and
        tools, as `parts`, whose ``begin`` answers it."""
        self.parts.pool.check_open()
        started = time.perf_counter()
        check_sampling(sampling)
        prompter, viewer = self.parts.prompter, self.parts.viewer
        conversation = prompter.conversation(prompt, images, videos, messages)
        budget = self.budget if budget is None else budget
        kinds = conversation.kinds
        pictures = viewer.prepare(conversation.media, budget, kinds)
        ids = prompter.encode_messages(conversation.messages, Counter(kinds))
        pictures = [pictures[number] for number in prompter.in_order(ids, kinds)]
        length = len(prompter.place(ids, [picture.ids for picture in pictures]))
        self.parts.check_room(length, sampling)
        return Request(
            ids,
            pictures,
            sampling,
            ms_since(started),
            cached=self._keeps_features,
            reused=self._keeps_sequences,
            question=self.parts.question(conversation.messages[-1]),
        )

    def chat(self, *, system: str | None = None, budget: int | None = None) -> Chat:
        """Begin a conversation.

        Args:
            system: what comes before the first question, where the chat template takes it.
            budget: as in `generate`, for all pictures of the conversation.

        Raises:
            RequestError: a budget that is not served, or a system message that is no text or would
                place a picture.
        """
        budget = self.budget if budget is None else budget
        budget = self.parts.viewer.check_budget(budget)
        if system is not None:
            self.parts.prompter.system(system)  # what it refuses is refused now
        return Chat(self.parts, budget, system, reuses=self._keeps_sequences)

    def close(self) -> None:
        """Free all KV caches and the decoder at once, instead of when the object goes.

        Nothing can be asked afterwards. Answers under way go on to their end, and keep what they
        need until then.
        """
        self.parts.close(with_decoder=self._owns_decoder)


def _feature_source(artifact: Artifact, encoder: VisionEncoder, *, kept: bool) -> FeatureSource:
    """What makes the features; where they are ``kept`` in a folder, others' lie beside them."""
    manifest = artifact.manifest
    name = manifest.artifact_id
    if kept:
        graph = manifest.vision.graphs[encoder.budget][encoder.precision]
        try:
            name = graph_digest(artifact.root, graph, manifest.files)
        except OSError as error:
            raise ArtifactError(
                f"{artifact.root / graph} cannot be read ({error.strerror})",
                advice="copy or export it again",
            ) from error
    computed = "" if encoder.provider == CPU_PROVIDER else f"-{_device(encoder)}"
    # Where the prompt decides what is kept, features of all tokens are: whatever the budget.
    every = manifest.pruning.tokens_before if encoder.reads_prompt else None
    made = "all" if every else f"k{encoder.budget}"
    return FeatureSource(
        f"{name[:32]}-{made}-{encoder.precision}{computed}",
        every or encoder.budget,
        manifest.decoder.hidden,
        encoder.nested and not every,
        manifest.vision.extras,
    )


def _device(encoder: VisionEncoder) -> str:
    """What computes features, by provider and options: two devices of one provider differ."""
    options = sorted((name, str(value)) for name, value in encoder.provider_options.items())
    if not options:
        return encoder.provider
    return f"{encoder.provider}-{hashlib.sha256(repr(options).encode()).hexdigest()[:8]}"
