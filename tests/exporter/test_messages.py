"""Whole conversations, with system turns and pictures between texts: ids against transformers'
processors, for every family's checkpoint."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.video_llava.processing_video_llava import VideoLlavaProcessor

from make_checkpoint import PRESETS
from make_checkpoint.text import make_tiling_processor
from pocketvlm.layouts import make_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from pocketvlm_export.checkpoint.processor import quiet_transformers
from pocketvlm_export.layouts import pick_layout, setting
from pocketvlm_export.loading import inspect_checkpoint

TINY = sorted(name for name in PRESETS if name.startswith("tiny-"))
RANDOM = np.random.default_rng(0)
PICTURES = [
    Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for width, height in [(60, 84), (84, 84), (150, 40), (90, 200)]
]


def text(words):
    return {"type": "text", "text": words}


def messages(medium, media):
    """A system turn, two pictures between texts, an answer, a text alone, and one picture more."""
    first, second, third = ({"type": medium, medium: value} for value in media[:3])
    return [
        {"role": "system", "content": [text("You describe  pictures.\n"), text("Be brief.")]},
        {"role": "user", "content": [text("is "), first, text(" like "), second, text("?")]},
        {"role": "assistant", "content": [text(" A red square; naïve & <b> 你好.")]},
        {"role": "user", "content": [text("why?")]},
        {"role": "assistant", "content": [text("Look.")]},
        {"role": "user", "content": [third, text("and this one?")]},
    ]


CONVERSATIONS = {
    "all": lambda every: every,
    "no system turn": lambda every: every[1:],
    "one question": lambda every: every[1:2],
    "no picture": lambda every: every[3:4],
    "a text before a picture": lambda every: [*every[:3], every[1], *every[2:]],
}


class Theirs:
    """transformers' processor of a checkpoint."""

    def __init__(self, folder, preset):
        self.folder, self.preset = folder, preset
        with quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, conversation):
        if self.preset.family == "video_llava":
            return self._video_ids(conversation)
        with quiet_transformers():
            ids = self._processor().apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True
            )
        return np.asarray(ids).reshape(-1).tolist()

    def _processor(self):
        if self.preset.family in ("smolvlm", "idefics3"):  # SmolVLM's own needs other packages
            stated = json.loads((self.folder / "preprocessor_config.json").read_text())
            names = ("size", "max_image_size", "do_image_splitting")
            options = {name: stated[name] for name in names}
            return make_tiling_processor(self.tokenizer, self.preset.family, options, 36)
        return AutoProcessor.from_pretrained(self.folder, use_fast=False)

    def _video_ids(self, conversation):
        """The whole class needs torchvision: its own count of slots, in its template's text."""
        own = SimpleNamespace(patch_size=7, num_additional_image_tokens=1, video_token="<video>")
        pixels = np.zeros((1, 8, 3, 42, 42), np.float32)
        slots = VideoLlavaProcessor.replace_video_token(own, {"pixel_values_videos": pixels}, 0)
        rendered = self.tokenizer.apply_chat_template(
            conversation,
            chat_template=(self.folder / "chat_template.jinja").read_text(),
            add_generation_prompt=True,
            tokenize=False,
        )
        return self.tokenizer(rendered.replace("<video>", slots))["input_ids"]


class Ours:
    """The runtime's prompter and layout, from the files of a checkpoint and without its graphs."""

    def __init__(self, folder):
        spec = inspect_checkpoint(str(folder)).spec
        chosen = pick_layout(spec, None, prunes=False)
        spec = spec.under(chosen)
        self.medium, self.tokens = spec.family.medium, spec.vision.tokens
        stated = json.loads((folder / "preprocessor_config.json").read_text())
        self.layout = make_layout(setting(spec, chosen), stated)
        with quiet_transformers():
            special = AutoTokenizer.from_pretrained(folder).special_tokens_map
        self.prompter = Prompter(
            tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
            ChatTemplate((folder / "chat_template.jinja").read_text(), special),
            spec.image_token_id,
            special.get("bos_token"),
            self.medium,
        )

    def ids(self, conversation):
        ids = self.prompter.encode_messages(conversation.messages, len(conversation.media))
        return self.prompter.place(ids, [self._slots(each) for each in conversation.media]).tolist()

    def _slots(self, picture):
        size = (1, 1) if self.medium == "video" else (picture.height, picture.width)
        grid = self.layout.grid(*size)
        kept = np.tile(np.arange(self.tokens), (grid.tiles, 1))
        return self.layout.expand(grid, self.tokens, kept)


@pytest.fixture(scope="module", params=TINY)
def pair(request, make_tiny):
    folder = make_tiny(request.param)
    return Ours(folder), Theirs(folder, PRESETS[request.param])


@pytest.mark.parametrize("choose", CONVERSATIONS.values(), ids=list(CONVERSATIONS))
def test_ids_of_a_conversation_are_those_of_the_processor(pair, choose):
    ours, theirs = pair
    media = PICTURES if ours.medium == "image" else [[picture] * 8 for picture in PICTURES]
    given = choose(messages(ours.medium, media))
    conversation = ours.prompter.conversation(messages=given)
    parts = [part for message in given for part in message["content"]]
    expected = [part[ours.medium] for part in parts if part["type"] == ours.medium]
    assert [id(each) for each in conversation.media] == [id(each) for each in expected]
    ids = ours.ids(conversation)
    assert ids == theirs.ids(given)
    if given[0]["role"] == "system":
        assert "Be brief." in ours.prompter.tokenizer.decode(ids)


def test_a_prompt_and_the_same_question_as_messages_are_one(pair):
    ours, theirs = pair
    media = PICTURES[:2] if ours.medium == "image" else [[picture] * 8 for picture in PICTURES[:2]]
    beside = {"images" if ours.medium == "image" else "videos": media}
    by_prompt = ours.prompter.conversation("what is it?", **beside)
    parts = [{"type": ours.medium, ours.medium: each} for each in media]
    given = [{"role": "user", "content": [*parts, text("what is it?")]}]
    by_messages = ours.prompter.conversation(messages=given)
    assert by_prompt.messages == by_messages.messages
    assert [id(each) for each in by_prompt.media] == [id(each) for each in by_messages.media]
    assert ours.ids(by_prompt) == ours.ids(by_messages) == theirs.ids(given)
