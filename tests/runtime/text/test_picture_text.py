"""Text that is written around a picture's slots before a prompt is tokenized."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm import VLM, Sampling
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.artifact.specs import PictureText
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from support.noise import picture
from support.tiny_artifact import byte_tokenizer, read_manifest, write_artifact, write_manifest

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}[picture]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
FIRST = TEMPLATE.replace(
    "{% for part in message['content'] %}",
    "{% for part in message['content'] if part['type'] == 'image' %}[picture]{% endfor %}"
    "{% for part in message['content'] if part['type'] != 'image' %}",
)
AROUND = PictureText("[picture]", "\n\n[picture]<image>.\n\n")


def prompter(template=TEMPLATE, around=AROUND):
    tokenizer = byte_tokenizer()
    image = tokenizer.token_to_id("<image>")
    return Prompter(tokenizer, ChatTemplate(template, {}), image, "<s>", picture_text=around)


@given(st.lists(st.text("\n a?", max_size=4), min_size=1, max_size=4), st.integers(1, 3))
def test_it_is_tokenized_with_what_stands_around_it(texts, slots):
    pictures = len(texts) - 1
    ids = prompter().encode("<image>".join(texts), pictures, slots=slots)
    whole = AROUND.text.replace("<image>", "<image>" * slots).join(texts)
    assert ids.tolist() == byte_tokenizer().encode(whole).ids


@pytest.mark.parametrize("template", [TEMPLATE, FIRST])
def test_pictures_are_placed_where_the_prompt_says(template):
    """By parts, or where the template would move these by the text that it writes itself."""
    text = prompter(template).render("is <image> or <image>?", 2)
    assert text == f"is {AROUND.text} or {AROUND.text}?"


@pytest.mark.parametrize("text", ["[picture]", "<image><image>", "a <image> and <image>"])
def test_a_text_without_its_slot_is_refused(text):
    with pytest.raises(ArtifactError, match="with <image> in it once"):
        prompter(around=PictureText("[picture]", text))


def test_neither_text_may_be_spelt_out():
    for token in ("<image>", "[picture]"):
        with pytest.raises(RequestError, match="in its text"):
            prompter().conversation(messages=[{"role": "user", "content": f"a {token}"}])
    with pytest.raises(RequestError, match="for 0 pictures"):
        prompter().encode("is [picture] here?")
    spelt = "a [pic<ima[picture]ge>ture] b"
    assert prompter().reply(spelt)["content"][0]["text"] == "a  b"


def test_an_artifact_that_says_so_answers(tmp_path):
    write_artifact(tmp_path / "a", template=TEMPLATE)
    data = read_manifest(tmp_path / "a")
    data["decoder"]["picture_text"] = {"placeholder": "[picture]", "text": AROUND.text}
    write_manifest(tmp_path / "a", data)
    few = Sampling(max_new_tokens=2)
    answer = VLM.load(tmp_path / "a").generate("what?", [picture(20, 30)], sampling=few)
    expected = byte_tokenizer().encode(AROUND.text.replace("<image>", "<image>" * 6) + "what?").ids
    assert answer.prompt_tokens["total"] == len(expected)


@pytest.mark.parametrize(
    "damage",
    [{"placeholder": "a"}, {"placeholder": "", "text": "<image>"}, "text", {"text": 3}, []],
)
def test_manifests_that_say_something_else_are_refused(tmp_path, damage):
    write_artifact(tmp_path / "a")
    data = read_manifest(tmp_path / "a")
    data["decoder"]["picture_text"] = damage
    with pytest.raises(ArtifactError, match="picture_text"):
        Manifest.from_dict(data)
