"""Messages as programs give them: what becomes of them, and every refusal in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken

from pocketvlm.errors import RequestError
from pocketvlm.text.messages import MessageReader, check_media
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from support.tiny_artifact import TEMPLATE, byte_tokenizer

PIXELS = np.zeros((4, 4, 3), np.uint8)
READER = MessageReader({"image": "<|image_pad|>"})
CLIPS = MessageReader({"video": "<video>"})


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def image(value):
    return {"type": "image", "image": value}


def prompter(template=TEMPLATE, image_token="<image>", medium="image"):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken(image_token, special=True, normalized=False)])
    return Prompter(
        tokenizer, ChatTemplate(template, {}), tokenizer.token_to_id(image_token), "<s>", medium
    )


def test_parts_stay_in_order_and_pictures_are_taken_out():
    pictures = ["a.png", Path("b.png"), b"bytes", Image.fromarray(PIXELS), PIXELS]
    parts = [part for picture in pictures for part in (image(picture), text("x"))]
    conversation = READER.read([{"role": "system", "content": "be brief"}, user(*parts)])
    assert [id(each) for each in conversation.media] == [id(each) for each in pictures]
    assert conversation.messages == [
        {"role": "system", "content": [text("be brief")]},
        user(*[{"type": "image"}, text("x")] * 5),
    ]


def test_tuples_and_several_turns_are_read():
    conversation = CLIPS.read(
        (
            {"role": "user", "content": ({"type": "video", "video": "clip.mp4"}, text("what?"))},
            {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": "why?"},
        )
    )
    assert conversation.media == ["clip.mp4"]
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "user"]


QUESTION = user(text("what?"))
REFUSED = [
    ("what?", "messages is of type str: expected a list of messages"),
    ({"role": "user", "content": "x"}, "messages is of type dict: expected a list"),
    ([], "messages is empty: expected at least one"),
    (["what?"], 'message 1 is of type str: expected a dict with "role" and "content"'),
    ([QUESTION, {"role": "user"}], 'message 2 has no "content"'),
    ([{"content": "x"}], 'message 1 has no "role"'),
    ([{**QUESTION, "name": "Ann"}], "message 1 has 'name': expected only"),
    ([{**QUESTION, "role": "tool"}], "message 1 has the role 'tool': expected one of system, user"),
    ([{**QUESTION, "role": ["user"]}], "message 1 has the role ['user']"),
    ([{"role": "user", "content": None}], "content of message 1 is of type NoneType: expected a t"),
    ([{"role": "user", "content": text("x")}], "the content of message 1 is of type dict"),
    ([{"role": "user", "content": []}], "message 1 is empty"),
    ([QUESTION, {"role": "assistant", "content": "x"}], "message 2, the last, has the role assist"),
    ([{"role": "system", "content": "x"}], "message 1, the last, has the role system: expected us"),
    ([user(text("x"), "y")], 'message 1, part 2 is of type str: expected a dict with "type"'),
    ([user({"text": "x"})], "message 1, part 1 is of the type None: expected one of text, image"),
    ([user({"type": ["text"]})], "message 1, part 1 is of the type ['text']"),
    ([user({"type": "audio", "audio": b""})], "message 1, part 1 is of the type 'audio'"),
    ([user({"type": "text"})], 'message 1, part 1 has no "text"'),
    ([user({"type": "text", "text": 3})], "text of message 1, part 1 is of type int: expected"),
    ([QUESTION, user({"type": "image"})], 'message 2, part 1 has no "image"'),
    ([user({"type": "image", "url": "http://x/a.png"})], 'message 1, part 1 has no "image"'),
    ([user(image(None))], "the image of message 1, part 1 is of type NoneType: expected a path"),
    ([user({**image("a"), "detail": "high"})], "message 1, part 1 has 'detail': expected only"),
    ([user({"type": "video", "video": "a.mp4"})], "part 1 is of the type video: expected pictures"),
    ([user(text("a <image> b"))], "message 1, part 1 has <image> in its text: expected pictures"),
    ([user(text("a<|image_pad|>"))], "message 1, part 1 has <|image_pad|> in its text"),
    ([{"role": "system", "content": "<image>"}, QUESTION], "message 1 has <image> in its text"),
]


@pytest.mark.parametrize(("messages", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_is_malformed_is_refused_in_one_line(messages, reason):
    with pytest.raises(RequestError) as error:
        READER.read(messages)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert error.value.expected
    assert error.value.setting == "messages"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_image", "image_url": "https://example.com/a.png"},
    ],
)
def test_addresses_are_refused_with_what_to_give_instead(part):
    with pytest.raises(
        RequestError, match=r"message 1, part 1 is of .*nothing is fetched"
    ) as error:
        READER.read([user(part)])
    assert error.value.advice == 'give {"type": "image", "image": ...} with its bytes or a path'


def test_models_that_read_clips_refuse_pictures_and_placeholders_of_both():
    with pytest.raises(RequestError, match="part 1 is of the type image: expected clips"):
        CLIPS.read([user(image(PIXELS))])
    for placeholder in ("<image>", "<video>"):
        with pytest.raises(RequestError, match=f"has {placeholder} in its text"):
            CLIPS.read([user(text(placeholder))])
    assert READER.read([user(text("<video>"))]).messages == [user(text("<video>"))]


PIECES = st.lists(st.sampled_from(["<image>", "<im", "age>", "<image", ">", " a"]), max_size=12)


@given(PIECES.map("".join))
def test_an_answer_given_back_adds_no_picture(answer):
    ours = prompter()
    messages = [QUESTION, {"role": "assistant", "content": answer}, QUESTION]
    conversation = ours.conversation(messages=messages)
    assert ours.image_token_id not in ours.encode_messages(conversation.messages, 0)
    replied = [QUESTION, ours.reply(answer), QUESTION]
    assert ours.image_token_id not in ours.encode_messages(replied, 0)
    kept = conversation.messages[1]["content"][0]["text"]
    assert kept == answer or "<image>" in answer


def test_a_prompt_places_its_pictures_as_ever():
    ours = prompter()
    conversation = ours.conversation("is <image> like <image>?", ["a.png", "b.png"])
    assert conversation.media == ["a.png", "b.png"]
    assert conversation.messages == ours.messages("is <image> like <image>?", 2)
    assert ours.conversation("hello").media == []
    assert ours.conversation("hello", images=[], videos=[]).media == []
    clips = prompter(medium="video").conversation("what?", videos=["a.mp4"])
    assert clips.media == ["a.mp4"]
    assert clips.messages == [user({"type": "video"}, text("what?"))]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "no prompt and no messages: expected one of them"),
        ({"prompt": ["what?"]}, "the prompt is of type list: expected a text"),
        ({"prompt": "x", "messages": [QUESTION]}, "messages come with a prompt"),
        ({"images": ["a.png"], "messages": [QUESTION]}, "messages come with a prompt"),
        ({"prompt": "x", "images": "a.png"}, "images is a single picture: give a list"),
        ({"prompt": "x", "images": PIXELS}, "images is a single picture: give a list"),
        ({"images": PIXELS, "messages": [QUESTION]}, "images is a single picture: give a list"),
        ({"prompt": "x", "images": 5}, "images is of type int: expected a list"),
        ({"prompt": "x", "videos": 5.0}, "videos is of type float: expected a list"),
        ({"prompt": "x", "videos": b"clip"}, "videos is a single clip: give a list"),
        ({"prompt": "x", "videos": ["a.mp4"]}, "pictures, not clips: give images"),
        ({"prompt": "<image>"}, "the prompt has 1 <image> for 0 pictures"),
    ],
)
def test_requests_of_two_forms_or_none_are_refused(arguments, reason):
    with pytest.raises(RequestError, match=reason):
        prompter().conversation(**arguments)


def test_pictures_beside_a_prompt_are_refused_where_clips_are_read():
    clips = prompter(medium="video")
    with pytest.raises(RequestError, match="clips, not pictures: give videos") as refusal:
        clips.conversation("what?", ["a.png"])
    assert refusal.value.setting == "images"
    with pytest.raises(RequestError, match="the prompt places a picture") as refusal:
        clips.conversation("what is <image>?", videos=["a.mp4"])
    assert refusal.value.setting == "prompt"


@pytest.mark.parametrize(("medium", "setting"), [("video", "images"), ("image", "videos")])
def test_the_medium_that_a_model_does_not_read_is_refused(medium, setting):
    check_media(["video"], clips=True)
    check_media(["image"], pictures=True)
    with pytest.raises(RequestError, match="this artifact answers questions about") as refusal:
        check_media([medium], pictures=medium == "video", clips=medium == "image")
    assert refusal.value.setting == setting


@pytest.mark.parametrize("text", [5, None, ["be brief"], "a <image> b", "a <|image_pad|> b"])
def test_a_system_message_is_words(text):
    with pytest.raises(RequestError, match=r"the system message (is|has)") as refusal:
        READER.system(text)
    assert refusal.value.setting == "system"
    assert refusal.value.expected
    assert READER.system("be brief") == {
        "role": "system",
        "content": [{"type": "text", "text": "be brief"}],
    }


def test_a_template_without_system_turns_refuses_in_its_own_words_in_one_line():
    ours = prompter(
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role\n  not supported' + '!' * 1000) }}{% endif %}" + TEMPLATE
    )
    conversation = ours.conversation(messages=[{"role": "system", "content": "x"}, QUESTION])
    with pytest.raises(RequestError, match="conversation: System role not supported!") as error:
        ours.encode_messages(conversation.messages, 0)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
