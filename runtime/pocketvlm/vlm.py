"""Knows what can be asked of a loaded artifact: an answer, a stream, a conversation. The runtime's
front door."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from pocketvlm.answer import Answer
from pocketvlm.answering import Answerer, Request, ms_since
from pocketvlm.artifact import Artifact, Check
from pocketvlm.artifact.replaced import of_one_folder
from pocketvlm.chat import Chat
from pocketvlm.decoders import choose_decoder, open_decoder
from pocketvlm.decoders.base import Decoder
from pocketvlm.decoders.late import LateDecoder
from pocketvlm.decoders.sampling import GREEDY, Sampling, check_sampling, checkpoint_sampling
from pocketvlm.files import user_path
from pocketvlm.layouts import Medium, open_layouts
from pocketvlm.limits import Limits
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.selftest import ensure_trusted
from pocketvlm.text.messages import Message
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.encoder import VisionEncoder, open_beside
from pocketvlm.vision.feature_cache import FeatureCache
from pocketvlm.vision.feature_source import feature_source
from pocketvlm.vision.viewer import Viewer


class VLM:
    """A vision-language model loaded from an artifact.

    >>> from pocketvlm import VLM
    >>> vlm = VLM.load("demo-vlm")
    >>> vlm.generate("What colour is the circle?", images=["examples/scene-2.png"]).text
    ' blue'
    >>> vlm.budget, vlm.decoder
    (36, 'onnx fp32')

    **Threads.** Any number of threads may use one object at once, with any number of open streams.
    Every answer is what it would be alone. Each answer has its own KV cache, and each `Chat`
    one that lasts. The engines compute one step at a time: one picture encoded, one prefill, one
    token. The next step belongs to the answer that has waited longest. No lock is held between
    steps, so a stream that nobody reads delays nobody. A single `Stream` or `Chat` is used by one
    thread at a time, except for `Stream.stop`. After `close` no question is accepted; answers in
    progress end normally. A process that is forked afterwards must load the model again, because
    the engines' threads stay behind.

    **What is kept.** Features of pictures, and the KV caches of the latest answers, within
    `Limits`. A prompt reuses the longest beginning that it shares with one of them. So a second
    question about a picture costs neither the tower nor the picture's prefill, unless the question
    selects the tokens. In float32 answers are those of a model that keeps nothing, `NOTHING_KEPT`.
    int8 decoders measure the activations of each run, so logits differ a little by how a prompt was
    divided; `SequenceLimits.fixed_runs` divides every prompt alike.

    Attributes:
        artifact: the loaded folder.
        budget: visual tokens per tile if a request names none.
        checkpoint_sampling: the checkpoint's published settings. A `Sampling` takes what it leaves
            out from them, temperature and the like if its ``base`` is ``"checkpoint"``.
        precision_reason: why `decoder` answers in its precision.
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

        ``keep_features``: `generate` keeps them in memory too, for many questions about the same
        picture. ``keep_sequences``: answers reuse the prompts of others, see `SequenceLimits`; else
        each is computed as if it were the first. ``beside``: the vision graphs of further media,
        see `pocketvlm.vision.encoder.open_beside`; questions with a medium without one are refused.
        """
        limits = limits or Limits()
        folder = None if feature_cache is None else user_path(feature_cache)

        def view(part: Artifact, graph: VisionEncoder, others: Sequence[Viewer] = ()) -> Viewer:
            source = feature_source(part, graph, kept=folder is not None)
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
    @of_one_folder
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
        """Load an artifact; if it is replaced meanwhile, the old or the new one is loaded.

        >>> from pocketvlm import VLM, EngineSettings
        >>> vlm = VLM.load("demo-vlm", budget=14, context=256, settings=EngineSettings(threads=1))
        >>> vlm.budget
        14

        Args:
            path: a folder written by `pocketvlm export`.
            decoder: engine, ``"onnx"`` or ``"llama.cpp"``; None is the artifact's default.
            budget: visual tokens per tile, the default of `generate`; None is the artifact's
                default.
            vision_precision: None is the artifact's default.
            decoder_precision: for llama.cpp the type of the GGUF file. With ONNX Runtime ``A+B``
                prefills in A and decodes in B, as in ``int8+int4``. None is the artifact's default,
                or its pair if memory allows both, within ``settings.memory_limit`` or what is free;
                `precision_reason` has the choice and its reason.
            context: longest sequence in tokens, a bound on memory; at most the artifact's own,
                which is the default.
            max_pixels: largest area of a resized picture, height times width, for artifacts with
                dynamic resolution. It saves work before the first token. At most the artifact's own
                limit, which is the default.
            max_tiles: most parts that a picture is cut into, for artifacts with tiles; as
                ``max_pixels``.
            settings: threads, execution providers and prepacking of each engine.
                ``EngineSettings(prepack=False)`` is for a question or two: float32 graphs then open
                at once, as mapped files, and each answer takes up to half as long again. If another
                provider than the CPU's own computes, the artifact's self-test runs first, once per
                device; see `pocketvlm.selftest.ensure_trusted`.
            limits: what is refused or forgotten for its size; None is the defaults of `Limits`.
            feature_cache: a folder for the features of pictures, so that none is encoded twice,
                also by other processes. None keeps them in memory.
            check: ``"auto"`` reads files whose checksum was not yet verified, ``"full"`` all,
                ``"sizes"`` none.
            once: for a process that answers one question, with ONNX Runtime. The decoder is opened
                after the pictures are encoded and the vision graphs are freed, so memory never
                holds both. Further pictures are then refused, and no sequence is kept for further
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
        """Bytes of KV cache that answers in progress, conversations and kept sequences take now."""
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
        """Answer a question about pictures, about clips if the model reads them, or about neither.

        >>> from pocketvlm import VLM, Sampling
        >>> vlm = VLM.load("demo-vlm")
        >>> vlm.generate("What shape is red?", images=["examples/scene-3.png"], budget=14).text
        ' circle'
        >>> vlm.generate(
        ...     messages=[
        ...         {
        ...             "role": "user",
        ...             "content": [
        ...                 {"type": "image", "image": "examples/scene-3.png"},
        ...                 {"type": "text", "text": "How many objects are there?"},
        ...             ],
        ...         },
        ...     ],
        ...     sampling=Sampling(max_new_tokens=8),
        ... ).text
        ' three'

        Args:
            prompt: the question; ``<image>`` in it places a picture, ``<video>`` a clip. Without
                these they come first.
            images: pictures of the prompt: paths, file contents, PIL images or uint8 arrays
                (height, width[, 1 | 3 | 4]).
            messages: in place of prompt, images and videos, a whole conversation with its pictures
                or clips in it, see `pocketvlm.text.messages.MessageReader.read`.
            videos: clips of the prompt: paths, file contents or lists of frames; for models that
                read clips, in place of pictures or beside them. Each frame of a clip keeps
                ``budget`` tokens.
            budget: visual tokens per tile, up to those of the loaded graph; None is `budget` of the
                object.
            sampling: how tokens are sampled, and when the answer ends; greedy by default.

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
        """As `generate`, in text pieces: iterate, then read ``.answer``. Refusals are raised by
        this call, not while iterating.

        >>> from pocketvlm import VLM
        >>> stream = VLM.load("demo-vlm").stream("What is this?", images=["examples/scene-2.png"])
        >>> pieces = [piece for piece in stream]
        >>> "".join(pieces) == stream.answer.text
        True
        """
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
        """Check the question of `stream` and make it ready; for tests and tools, as `parts`, whose
        ``begin`` answers it."""
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

        >>> from pocketvlm import VLM
        >>> chat = VLM.load("demo-vlm").chat(budget=14)
        >>> chat.ask("How many objects are there?", images=["examples/scene-3.png"]).text
        ' three'

        Args:
            system: what comes before the first question, where the chat template takes it.
            budget: as in `generate`, for all pictures of the conversation.

        Raises:
            RequestError: a budget that is not served, or a system message that is not text or would
                place a picture.
        """
        budget = self.budget if budget is None else budget
        budget = self.parts.viewer.check_budget(budget)
        if system is not None:
            self.parts.prompter.system(system)  # what it refuses is refused now
        return Chat(self.parts, budget, system, reuses=self._keeps_sequences)

    def close(self) -> None:
        """Free all KV caches and the decoder now, instead of when the object is deleted.

        No question is accepted afterwards. Answers in progress run to their end, and keep what they
        need until then.
        """
        self.parts.close(with_decoder=self._owns_decoder)
