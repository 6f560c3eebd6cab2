"""Knows what can be asked of a loaded artifact: an answer, a stream, a conversation. The runtime's
front door."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pocketvlm.answer import Answer
from pocketvlm.answering import Answerer, Request, Sampling, ms_since
from pocketvlm.artifact import Artifact, Check, Manifest
from pocketvlm.chat import Chat
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import Decoder
from pocketvlm.decoders.pool import SequenceLimits
from pocketvlm.media.pictures import Picture, PictureLimits
from pocketvlm.media.videos import Video, VideoLimits
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, FeatureLimits, FeatureSource
from pocketvlm.vision.viewer import Viewer


class VLM:
    """A vision-language model loaded from an artifact.

    **Threads.** Any number of threads may ask one object at once, and any number of streams may be
    open: every answer is what it would be alone. Each answer has a KV cache of its own, each `Chat`
    one that lasts. The engines compute one step at a time (one picture encoded, one prefill, one
    token), and the next step is that of the answer that has waited longest. Between steps nothing
    is held: a stream that nobody reads delays nobody. A single `Stream` or `Chat` is used by one
    thread at a time, except for `Stream.stop`. After `close` nothing can be asked; answers under
    way end as they would.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        decoder: Decoder,
        limits: PictureLimits | None = None,
        feature_cache: str | os.PathLike[str] | None = None,
        feature_limits: FeatureLimits | None = None,
        *,
        keep_features: bool = False,
        video_limits: VideoLimits | None = None,
        sequence_limits: SequenceLimits | None = None,
    ) -> None:
        """Put opened parts together, see `load`; several objects may share a decoder.

        ``keep_features``: `generate` keeps them in memory too, where many questions are about the
        same picture.
        """
        folder = None if feature_cache is None else Path(feature_cache)
        cache = FeatureCache(_feature_source(artifact.manifest, encoder), feature_limits, folder)
        viewer = Viewer(artifact, encoder, limits, cache, video_limits)
        self.artifact = artifact
        prompter = Prompter.from_artifact(artifact)
        self._answerer = Answerer(artifact.manifest, viewer, decoder, prompter, sequence_limits)
        self._budget: int = encoder.budget
        self._keeps_features = keep_features or folder is not None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        decoder: str | None = None,
        budget: int | None = None,
        vision_precision: str | None = None,
        decoder_precision: str | None = None,
        context: int | None = None,
        check: Check = "auto",
        limits: PictureLimits | None = None,
        feature_cache: str | os.PathLike[str] | None = None,
        feature_limits: FeatureLimits | None = None,
        video_limits: VideoLimits | None = None,
        *,
        settings: EngineSettings = DEFAULT_SETTINGS,
        sequence_limits: SequenceLimits | None = None,
    ) -> Self:
        """Load an artifact.

        Args:
            path: a folder written by `pocketvlm export`.
            decoder: engine, ``"onnx"`` or ``"llama.cpp"``; None is the artifact's default.
            budget: visual tokens per tile, the default of `generate`; None is the artifact's
                default.
            vision_precision: None is the artifact's default, as is ``decoder_precision``'s.
            decoder_precision: see ``vision_precision``; for llama.cpp the type of the GGUF file.
                With ONNX Runtime ``A+B`` prefills in A and decodes in B, as in ``int8+int4``, where
                memory allows both.
            context: longest sequence in tokens, at most the artifact's own, which None leaves: a
                bound on memory.
            check: ``"auto"`` reads files whose checksum was not yet verified, ``"full"`` all,
                ``"sizes"`` none.
            limits: caps on pictures; None is 64 MiB and 100 megapixels.
            feature_cache: a folder for the features of pictures, so that none is encoded twice, in
                another process or on another day either; `generate` uses it too. None keeps them in
                memory, for conversations.
            feature_limits: bytes of features kept; None is 64 MiB in memory and 1 GiB in the
                folder.
            video_limits: caps on clips; None is 1 GiB, 36 megapixels, 100,000 frames and five
                minutes of decoding.
            settings: threads, execution providers and prepacking of each engine.
                ``EngineSettings(prepack=False)`` is for a question or two: float32 graphs then open
                at once, as mapped files, and each answer takes up to half as long again.
            sequence_limits: bytes of KV cache that conversations keep between their answers; None
                is 1 GiB.

        Raises:
            PocketVLMError: the folder is not a sound artifact, or lacks what is asked for.
        """
        started = time.perf_counter()
        artifact = Artifact.open(path, check).shortened(context)
        encoder = VisionEncoder.open(
            artifact, budget=budget, precision=vision_precision, settings=settings
        )
        engine = open_decoder(
            artifact, engine=decoder, precision=decoder_precision, settings=settings
        )
        vlm = cls(
            artifact,
            encoder,
            engine,
            limits,
            feature_cache,
            feature_limits,
            video_limits=video_limits,
            sequence_limits=sequence_limits,
        )
        vlm._budget = artifact.manifest.pruning.default_budget if budget is None else budget
        vlm._answerer.viewer.check_budget(vlm._budget)
        vlm._answerer.load_ms = ms_since(started)
        return vlm

    @property
    def decoder(self) -> str:
        """The engine and precision that answer, as in ``"onnx fp32"``."""
        return self._answerer.decoder.name

    @property
    def cache_bytes(self) -> int:
        """Bytes of KV cache that answers under way and conversations take now."""
        return self._answerer.pool.cache_bytes

    def generate(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        budget: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        videos: Sequence[Video] | None = None,
    ) -> Answer:
        """Answer a question about pictures, about clips where the model reads those, or about none.

        Args:
            prompt: the question; ``<image>`` in it places a picture, ``<video>`` a clip, else they
                come first.
            images: paths, file contents, PIL images or uint8 arrays; None is no picture.
            budget: visual tokens per tile, up to those of the loaded graph; None is what was loaded
                for.
            max_new_tokens: the answer's limit in tokens.
            temperature: 0 is greedy.
            top_p: nucleus sampling, see `Sampler`.
            seed: makes sampling repeatable.
            videos: paths, or file contents; for models that read clips, in place of pictures.
                Each frame of a clip keeps ``budget`` tokens.

        Raises:
            PocketVLMError: a picture, clip, budget, count or setting that is refused, or a prompt
                beyond the context.
        """
        return self.stream(
            prompt, images, budget, max_new_tokens, temperature, top_p, seed, videos
        ).answer

    def stream(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        budget: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        videos: Sequence[Video] | None = None,
    ) -> Stream:
        """As `generate`, in text pieces: iterate, then read ``.answer``. Refusals come at once, not
        while iterating."""
        started = time.perf_counter()
        sampler = self._answerer.sampler(Sampling(max_new_tokens, temperature, top_p, seed))
        pictures = self._answerer.viewer.prepare(images, self._chosen(budget), videos)
        prompter = self._answerer.prompter
        ids = prompter.encode(prompt, len(pictures))
        length = len(prompter.place(ids, [picture.ids for picture in pictures]))
        self._answerer.check_room(length, max_new_tokens)
        return self._answerer.begin(
            Request(
                ids,
                pictures,
                max_new_tokens,
                sampler,
                ms_since(started),
                cached=self._keeps_features,
            )
        )

    def chat(self, budget: int | None = None) -> Chat:
        """Begin a conversation; ``budget`` is as in `generate`, for all of its pictures."""
        chosen = self._chosen(budget)
        self._answerer.viewer.check_budget(chosen)
        return Chat(self._answerer, chosen)

    def _chosen(self, budget: int | None) -> int:
        return self._budget if budget is None else budget

    def close(self) -> None:
        """Free the decoder and all KV caches at once, instead of when the object goes.

        Nothing can be asked afterwards. Answers under way go on to their end, and keep what they
        need until then.
        """
        self._answerer.close()


def _feature_source(manifest: Manifest, encoder: VisionEncoder) -> FeatureSource:
    name = f"{manifest.artifact_id[:32]}-k{encoder.budget}-{encoder.precision}"
    return FeatureSource(name, encoder.budget, manifest.decoder.hidden, encoder.nested)
