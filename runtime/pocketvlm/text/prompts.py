"""Knows how questions and conversations become token ids, equal to those of the checkpoint's own
processor."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tokenizers

from pocketvlm.artifact import Artifact
from pocketvlm.artifact.specs import PictureText
from pocketvlm.decoders.base import EmbeddingSegment, Segment
from pocketvlm.errors import ArtifactError, RequestError, library_errors
from pocketvlm.layouts import MEDIA, Medium, media_read
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.text.messages import (
    PLACEHOLDERS,
    PLURALS,
    Conversation,
    Message,
    MessageReader,
    media_of,
)
from pocketvlm.text.slots import cut, place
from pocketvlm.text.templates import ChatTemplate
from pocketvlm.text.tokenizer_files import MAX_BYTES, read_tokenizer

# How many pictures or clips: of the medium that the model reads, or by medium where it reads two.
Counts = int | Mapping[Medium, int]
_MAX_SPACE = 4096  # in a row: published tokenizers read them in quadratic time


class Prompter:
    """Chat template and tokenizer of an artifact.

    The ids equal ``processor.apply_chat_template(messages, add_generation_prompt=True,
    tokenize=True)`` of transformers, with ``slots`` image tokens per picture. As there, special
    tokens typed by a user are read as special tokens: an application that passes on text from
    strangers strips them first.

    Where a picture's place in the template is not the image token, ``picture_text`` says what is
    written there before the prompt is tokenized.

    Where the model reads clips, ``medium`` is ``"video"``, and what is written of pictures and
    ``<image>`` below holds for clips and ``<video>``. Where it reads both, ``beside`` has the token
    in the places of the other kind; numbers of pictures are then given by medium, see `Counts`.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        template: ChatTemplate,
        image_token_id: int,
        bos_token: str | None,
        medium: Medium = "image",
        picture_text: PictureText | None = None,
        beside: Mapping[Medium, int] | None = None,
    ) -> None:
        # As transformers, whatever tokenizer.json says: a prompt is never cut or padded. Before any
        # text is read, for a file that pads to 64 tokens would pad the image token too.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = {medium: image_token_id, **(beside or {})}
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self._slot_ids = np.array(list(ids.values()), dtype=np.int64)
        # The token in the slots of each.
        self._slots = {kind: _place(tokenizer, token) for kind, token in ids.items()}
        own = self._slots[medium]
        self._picture_text = picture_text or PictureText(own, own)
        if self._picture_text.text.count(own) != 1:
            raise ArtifactError(
                f"a picture is written as {self._picture_text.text!r}",
                expected=f"a text with {own} in it once",
                advice="export the artifact again",
            )
        # What the template writes in the place of each.
        self._tokens = {**self._slots, medium: self._picture_text.placeholder}
        self._template = template
        self._bos_token = bos_token
        self._medium = medium
        self._reader = MessageReader(self._tokens, own)

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read tokenizer.json, tokenizer_config.json and the chat template; raises
        `PocketVLMError`."""
        config = (
            artifact.read_json("tokenizer_config.json")
            if artifact.has("tokenizer_config.json")
            else {}
        )
        special = special_tokens(config)
        tokenizer = read_tokenizer(
            artifact.read_text("tokenizer.json", max_bytes=MAX_BYTES),
            lambda reason: ArtifactError(
                f"{artifact.root}/tokenizer.json cannot be read ({reason})",
                advice="export it again",
            ),
        )
        template = ChatTemplate(artifact.read_text("chat_template.jinja"), special)
        manifest = artifact.manifest
        medium, *others = media_read(manifest)
        beside = {other: manifest.media[other].image_token_id for other in others}
        return cls(
            tokenizer,
            template,
            manifest.decoder.image_token_id,
            special.get("bos_token"),
            medium,
            manifest.decoder.picture_text,
            beside,
        )

    def conversation(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        videos: Sequence[Video] | None = None,
        messages: Sequence[Message] | None = None,
    ) -> Conversation:
        """Either form of a request as one: what `encode_messages` reads, and its pictures or clips.

        Args:
            prompt: one question; ``<image>`` in it places a picture, see `messages`.
            images: pictures of the prompt.
            videos: clips of the prompt.
            messages: a whole conversation in place of these, see `MessageReader.read`.

        Raises:
            RequestError: both forms or neither, or what either refuses.
        """
        if messages is None:
            if not isinstance(prompt, str):
                raise _no_text(prompt)
            media = media_of(images, videos, self._tokens)
            kinds = [kind for kind, _ in media]
            return Conversation(
                self.messages(prompt, Counter(kinds)), [value for _, value in media], kinds
            )
        if prompt is not None or media_of(images, videos, self._tokens):
            raise RequestError(
                "messages come with a prompt, images or videos beside them",
                advice="put these into the messages",
                setting="messages",
            )
        return self._reader.read(messages)

    def encode(self, prompt: str, pictures: Counts = 0, slots: int = 1) -> npt.NDArray[np.int64]:
        """Token ids int64 (n,) of one question; every picture takes ``slots`` image tokens, see
        `place` for others.

        ``<image>`` in the prompt places a picture there, in order, with what the chat template
        writes around one. Without any, pictures come first, where the chat template puts them.

        Raises:
            PocketVLMError: the prompt places another number of pictures than are given, or is not
                valid Unicode.
        """
        return self.encode_messages(self.messages(prompt, pictures), pictures, slots)

    def render(self, prompt: str, pictures: Counts = 0) -> str:
        """The text that `encode` tokenizes, each picture a single image token in it."""
        return self.written(self.messages(prompt, pictures))

    def messages(self, prompt: str, pictures: Counts, carried: Counts = 0) -> list[Message]:
        """The conversation that `encode` renders; ``carried`` more pictures come before all
        else."""
        if "image" not in self._tokens and PLACEHOLDERS["image"] in prompt:
            raise RequestError(
                "the prompt places a picture, and this model reads clips",
                advice=f"write {PLACEHOLDERS[self._medium]}",
                setting="prompt",
            )
        given, before = self._by_medium(pictures), self._by_medium(carried)
        first: list[Mapping[str, str]] = []
        for medium in sorted(self._tokens, key=MEDIA.index):
            placeholder, name, count = PLACEHOLDERS[medium], PLURALS[medium], given[medium]
            placed = prompt.count(placeholder)
            if placed not in (0, count):
                raise RequestError(
                    f"the prompt has {placed} {placeholder} for {count} {name}",
                    advice=f"give as many {name}, or no {placeholder}"
                    + (" at all to put them first" if count else ""),
                    setting="prompt",
                )
            first += [{"type": medium}] * (before[medium] + (0 if placed else count))
        return [{"role": "user", "content": [*first, *self._parts(prompt)]}]

    @functools.cached_property
    def beginning(self) -> npt.NDArray[np.int64]:
        """Token ids int64 (n,) that all prompts without a system text begin with, with or without a
        picture; none if two prompts have no common beginning."""
        try:
            one = self.encode("alpha", {self._medium: 1})
            other = self.encode("1 omega")
        except RequestError:  # a template that takes no prompt like this
            return np.zeros(0, dtype=np.int64)
        shorter = min(len(one), len(other))
        differing = np.flatnonzero(one[:shorter] != other[:shorter])
        return one[: differing[0] if len(differing) else shorter]

    def _by_medium(self, counts: Counts) -> Mapping[Medium, int]:
        """How many there are of each medium that the model reads."""
        stated = {self._medium: counts} if isinstance(counts, int) else counts
        return {medium: stated.get(medium, 0) for medium in self._tokens}

    def _parts(self, prompt: str) -> list[Mapping[str, str]]:
        """A prompt as parts of a message.

        A picture that it places becomes a separate part, so that the template writes around it what
        belongs there. If the template would move it, it becomes that text itself.
        """
        media = {PLACEHOLDERS[medium]: medium for medium in self._tokens}
        if not any(placeholder in prompt for placeholder in media) or not self._walks_parts:
            for placeholder, medium in media.items():
                prompt = prompt.replace(placeholder, self._tokens[medium])
            return [{"type": "text", "text": prompt}]
        pattern = "|".join(f"({re.escape(placeholder)})" for placeholder in media)
        pieces = [piece for piece in re.split(pattern, prompt) if piece]
        return [
            {"type": media[piece]} if piece in media else {"type": "text", "text": piece}
            for piece in pieces
        ]

    @functools.cached_property
    def _walks_parts(self) -> bool:
        """Whether the template writes the parts of a message in their order: some put all pictures
        first."""
        return all(self._walks(medium) for medium in self._tokens)

    def _walks(self, medium: Medium) -> bool:
        before, after = "alpha", "omega"
        content = [
            {"type": "text", "text": before},
            {"type": medium},
            {"type": "text", "text": after},
        ]
        try:
            text = self._template.render([{"role": "user", "content": content}])
        except RequestError:
            return False
        between = text.partition(before)[2].partition(after)[0]
        token = self._tokens[medium]
        return text.count(token) == between.count(token) == 1

    def written(self, messages: Sequence[Message]) -> str:
        """A conversation as text, an image token for each picture in it; raises `PocketVLMError`
        where the template refuses it."""
        text = self._template.render(messages)
        return text.replace(self._picture_text.placeholder, self._picture_text.text)

    def system(self, text: str) -> Message:
        """What comes before the first question, see `MessageReader.system`."""
        return self._reader.system(text)

    def question(self, message: Message) -> npt.NDArray[np.int64]:
        """Token ids int64 (T,) of what a message says, without the template, special tokens and
        places of pictures; none where it says nothing."""
        parts = [part["text"] for part in message["content"] if part["type"] == "text"]
        text = " ".join(parts)
        for spelt in {*self._tokens.values(), *self._slots.values()}:
            text = text.replace(spelt, " ")
        ids = np.array(_token_ids(self.tokenizer, text.strip(), add_special=False), dtype=np.int64)
        return ids[~np.isin(ids, self._slot_ids)]

    def question_of(self, prompt: str) -> npt.NDArray[np.int64]:
        """Token ids of what a prompt says, see `question`, however many pictures it places."""
        return self.question({"role": "user", "content": self._parts(prompt)})

    def reply(self, text: str) -> Message:
        """An answer as a message. Templates put their own spaces around it, and an image token
        that the model spelt out is not a picture."""
        answer = self._reader.reply(text).strip()
        return {"role": "assistant", "content": [{"type": "text", "text": answer}]}

    def encode_messages(
        self, messages: Sequence[Message], pictures: Counts, slots: int = 1
    ) -> npt.NDArray[np.int64]:
        """As `encode`, for a conversation in the form that chat templates read."""
        text = self.written(messages)
        # One pass, and no second BOS where the template has written one already.
        add_special = not (self._bos_token and text.startswith(self._bos_token))
        ids = np.array(_token_ids(self.tokenizer, text, add_special=add_special), dtype=np.int64)
        given = self._by_medium(pictures)
        for (medium, token), token_id in zip(self._slots.items(), self._slot_ids, strict=True):
            if (placed := int((ids == token_id).sum())) != given[medium]:
                name = PLURALS[medium]
                raise RequestError(
                    f"the rendered prompt holds {placed} {token} for {given[medium]} {name}",
                    advice=f"the chat template does not take {name} here, or the text contains "
                    f"{token}",
                )
        return np.repeat(ids, np.where(np.isin(ids, self._slot_ids), slots, 1))

    def in_order(self, ids: npt.NDArray[np.int64], kinds: Sequence[Medium]) -> list[int]:
        """Which of the media that were given comes first in a prompt, which second and so on.

        A template may put all pictures before all clips, wherever they were given; those of a kind
        keep their order.

        Args:
            ids: int64 (n,), one image token for each of them.
            kinds: of what was given, in its order.
        """
        of_kind = {
            medium: iter([number for number, kind in enumerate(kinds) if kind == medium])
            for medium in self._tokens
        }
        media = dict(zip(self._slot_ids.tolist(), self._tokens, strict=True))
        return [next(of_kind[media[token]]) for token in ids.tolist() if token in media]

    def place(
        self, ids: npt.NDArray[np.int64], pictures: Sequence[npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """See `pocketvlm.text.slots.place`."""
        return place(ids, self._slot_ids, pictures)

    def segments(
        self,
        ids: npt.NDArray[np.int64],
        pictures: Iterable[EmbeddingSegment | npt.NDArray[np.float32]],
    ) -> list[Segment]:
        """See `pocketvlm.text.slots.cut`."""
        return cut(ids, self._slot_ids, pictures)


def _place(tokenizer: tokenizers.Tokenizer, token_id: int) -> str:
    """The text of the token in a picture's place; raises `ArtifactError` where it is none."""
    token = _token(tokenizer, token_id)
    if token is None or _token_ids(tokenizer, token, add_special=False) != [token_id]:
        raise ArtifactError(
            f"the tokenizer has no image token {token_id}", advice="export the artifact again"
        )
    return token


def _no_text(prompt: Any) -> RequestError:
    if prompt is None:
        return RequestError("no prompt and no messages", expected="one of them", setting="prompt")
    return RequestError(
        f"the prompt is of type {type(prompt).__name__}", expected="a text", setting="prompt"
    )


def _token(tokenizer: tokenizers.Tokenizer, token_id: int) -> str | None:
    """The text of a token; None for an id that the tokenizer does not have, however large."""
    with library_errors(
        lambda reason: ArtifactError(
            f"the tokenizer has no token {token_id} ({reason})", advice="export the artifact again"
        )
    ):
        token: str | None = tokenizer.id_to_token(token_id)
    return token


def _token_ids(tokenizer: tokenizers.Tokenizer, text: str, *, add_special: bool) -> list[int]:
    if any(len(space[0]) > _MAX_SPACE for space in re.finditer(r"\s+", text)):
        raise RequestError(
            "the prompt has thousands of spaces or line breaks in a row",
            expected=f"at most {_MAX_SPACE}",
            setting="prompt",
        )
    if re.search("[\ud800-\udfff]", text):  # halves of surrogate pairs, which older tokenizers read
        raise RequestError(
            "the tokenizer cannot read the prompt (it has half of a surrogate pair)",
            advice="give valid Unicode text",
            setting="prompt",
        )
    with library_errors(  # what a vocabulary lacks
        lambda reason: RequestError(
            f"the tokenizer cannot read the prompt ({reason})", advice="give valid Unicode text"
        )
    ):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
    return ids


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and its like from tokenizer_config.json, where each is a text or an object with
    ``content``."""
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in named.items()
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}
