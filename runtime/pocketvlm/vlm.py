"""Knows how an answer comes about: pictures seen, prompt read, tokens picked one by one. The runtime's front door."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.answer import Answer
from pocketvlm.artifact import Artifact, Check
from pocketvlm.decoders import Decoder, check_room, open_decoder
from pocketvlm.errors import PocketVLMError
from pocketvlm.pictures import Picture, PictureLimits, open_picture
from pocketvlm.preprocessing import Preprocessor
from pocketvlm.prompts import Prompter
from pocketvlm.sampling import Sampler
from pocketvlm.streaming import Detokenizer, Stream
from pocketvlm.vision import VisionEncoder, VisionFeatures


@dataclass(frozen=True)
class _Request:
    """A question made ready: everything that can be refused has been checked."""

    ids: npt.NDArray[np.int64]  # (n,), image slots expanded
    pixel_values: list[npt.NDArray[np.float32]]  # (3, height, width) a picture
    budget: int
    max_new_tokens: int
    sampler: Sampler
    preprocess_ms: float


@dataclass
class _Speech:
    """What has been said so far."""

    detokenizer: Detokenizer
    token_ids: list[int]
    decode_ms: float = 0.0  # picking tokens after the first; not what the reader of the stream does meanwhile
    finish_reason: Literal["stop", "length"] = "length"


class VLM:
    """A vision-language model loaded from an artifact.

    One answer at a time: the object holds the decoder's cache, so threads take turns or load one each.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        decoder: Decoder,
        limits: PictureLimits | None = None,
    ) -> None:
        self.artifact = artifact
        self.limits = limits
        self._encoder = encoder
        self._decoder = decoder
        self._budget = encoder.budget
        self._preprocessor = Preprocessor.from_artifact(artifact)
        self._prompter = Prompter.from_artifact(artifact)
        self._load_ms = 0.0
        self._turn = 0  # counts streams begun; only the latest owns the decoder's cache

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        decoder: str | None = None,
        threads: int | None = None,
        budget: int | None = None,
        vision_precision: str | None = None,
        decoder_precision: str | None = None,
        check: Check = "auto",
        limits: PictureLimits | None = None,
    ) -> Self:
        """Load an artifact.

        Args:
            path: a folder written by `pocketvlm export`.
            decoder: engine; None prefers ``"onnx"``.
            threads: for each engine; None leaves its default.
            budget: visual tokens a picture, the default of `generate`; None is the artifact's default.
            vision_precision: None is the artifact's default, as is ``decoder_precision``'s.
            decoder_precision: see ``vision_precision``.
            check: ``"auto"`` reads files whose checksum was not yet verified, ``"full"`` all, ``"sizes"`` none.
            limits: caps on pictures; None is 64 MiB and 100 megapixels.

        Raises:
            PocketVLMError: the folder is not a sound artifact, or lacks what is asked for.
        """
        started = time.perf_counter()
        artifact = Artifact.open(path, check)
        encoder = VisionEncoder.open(artifact, budget=budget, precision=vision_precision, threads=threads)
        engine = open_decoder(artifact, engine=decoder, precision=decoder_precision, threads=threads)
        vlm = cls(artifact, encoder, engine, limits)
        vlm._budget = artifact.manifest.pruning.default_budget if budget is None else budget
        vlm._load_ms = _ms_since(started)
        return vlm

    def generate(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        budget: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Answer:
        """Answer a question about pictures, or about none.

        Args:
            prompt: the question; ``<image>`` in it places a picture, else pictures come first.
            images: paths, file contents, PIL images or uint8 arrays; None is no picture.
            budget: visual tokens a picture, up to those of the loaded graph; None is what was loaded for.
            max_new_tokens: the answer's limit in tokens.
            temperature: 0 is greedy.
            top_p: nucleus sampling, see `Sampler`.
            seed: makes sampling repeatable.

        Raises:
            PocketVLMError: a picture, budget, count or setting that is refused, or a prompt beyond the context.
        """
        return self.stream(prompt, images, budget, max_new_tokens, temperature, top_p, seed).answer

    def stream(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        budget: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Stream:
        """As `generate`, in text pieces: iterate, then read ``.answer``. Refusals come at once, not while iterating."""
        started = time.perf_counter()
        if max_new_tokens < 1:
            raise PocketVLMError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        sampler = Sampler(temperature, top_p, seed)
        budget = self._encoder.check_budget(self._budget if budget is None else budget)
        if isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray)):
            raise PocketVLMError("images is a single picture: give a list of pictures")
        images = [] if images is None else images
        ids = self._prompter.encode(prompt, len(images), budget)
        # The last token picked is never fed back, so it takes no room.
        check_room(len(ids), max_new_tokens - 1, self._decoder.context)
        pixel_values = [self._preprocessor(open_picture(image, self.limits)) for image in images]
        self._check_image_size(pixel_values)
        request = _Request(ids, pixel_values, budget, max_new_tokens, sampler, _ms_since(started))
        self._turn += 1
        return Stream(self._run(request, self._turn))

    def _run(self, request: _Request, turn: int) -> Generator[str, None, Answer]:
        """Vision, prefill and decoding of one request; yields text pieces and returns the answer."""
        self._own_decoder(turn)
        started = time.perf_counter()
        pictures = self._see(request)
        vision_ms = _ms_since(started)
        segments = self._prompter.segments(request.ids, [picture.image_features[0] for picture in pictures])
        try:
            self._decoder.reset()
            logits = self._decoder.prefill(segments)
            spent = dict(self._decoder.timings_ms)
            speech = _Speech(Detokenizer(self._prompter.tokenizer), [request.sampler.pick(logits)])
            ttft_ms = request.preprocess_ms + _ms_since(started)
            yield from self._speak(request, speech, turn)
        finally:
            if turn == self._turn:
                self._decoder.reset()
        return Answer(
            text=speech.detokenizer.text,
            token_ids=speech.token_ids,
            kept_indices=[picture.kept_indices[0].tolist() for picture in pictures],
            visual_tokens={
                "before": self.artifact.manifest.pruning.tokens_before * len(pictures),
                "after": request.budget * len(pictures),
            },
            timings_ms={
                "load": self._load_ms,
                "preprocess": request.preprocess_ms,
                "vision": vision_ms,
                "embed": spent["embed"],
                "prefill": spent["prefill"],
                "ttft": ttft_ms,
                "decode": speech.decode_ms,
                "total": ttft_ms + speech.decode_ms,
            },
            finish_reason=speech.finish_reason,
        )

    def _speak(self, request: _Request, speech: _Speech, turn: int) -> Generator[str, None, None]:
        """Decode token by token from the first, until the end of sequence or the limit; yields text pieces."""
        eos = set(self.artifact.manifest.decoder.eos_token_ids)
        while speech.token_ids[-1] not in eos:
            if piece := speech.detokenizer.push(speech.token_ids[-1]):
                yield piece
                self._own_decoder(turn)
            if len(speech.token_ids) == request.max_new_tokens:
                break
            started = time.perf_counter()
            logits = self._decoder.decode(speech.token_ids[-1])
            speech.token_ids.append(request.sampler.pick(logits))
            speech.decode_ms += _ms_since(started)
        else:
            speech.finish_reason = "stop"
        if rest := speech.detokenizer.finish():
            yield rest

    def _see(self, request: _Request) -> list[VisionFeatures]:
        """Each picture by itself: memory stays that of one, and a quantized graph's activation scales, taken over the
        whole batch, do not let one picture change another's features."""
        return [self._encoder.encode(pixels[None]).narrow(request.budget) for pixels in request.pixel_values]

    def _check_image_size(self, pixel_values: Sequence[npt.NDArray[np.float32]]) -> None:
        expected = self.artifact.manifest.vision.image_size
        for pixels in pixel_values:
            if pixels.shape[1:] != expected:
                raise PocketVLMError(
                    f"preprocessing makes {pixels.shape[1]}x{pixels.shape[2]} pixels, the vision graph reads "
                    f"{expected[0]}x{expected[1]}: export the artifact again"
                )

    def _own_decoder(self, turn: int) -> None:
        if turn != self._turn:
            raise PocketVLMError("another answer was begun on this VLM before this stream ended: finish one first")


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
