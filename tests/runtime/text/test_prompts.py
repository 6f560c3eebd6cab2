"""Token ids against a real LlavaProcessor built from the same tokenizer, template and budget."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers
from transformers import LlamaTokenizer, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from support.tiny_artifact import (
    PREPROCESSOR,
    TEMPLATE,
    byte_tokenizer,
    read_manifest,
    write_manifest,
)
from support.tiny_graphs import PATCHES

# As llava-hf/llava-1.5-7b-hf writes it: all pictures first, whatever their place among the parts.
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + "
    "': ' }}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ "
    "'<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + VICUNA
BLOCKS = """{%- for message in messages %}
    {%- for part in message.content %}
        {%- if loop.index > 9 %}{% break %}{% endif %}
        {% if part.type == 'image' %}
        <image>
        {% else %}
        {% generation %}{{ part | tojson }}{% endgeneration %}
        {% endif %}
    {%- endfor %}
{% endfor %}
"""
TEMPLATES = [TEMPLATE, VICUNA, WITH_BOS, BLOCKS]
PICTURE = np.zeros((20, 20, 3), np.uint8)


def prompter(template, *, add_bos=True):
    tokenizer = byte_tokenizer(add_bos=add_bos)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Prompter(
        tokenizer, ChatTemplate(template, special), tokenizer.token_to_id("<image>"), "<s>"
    )


def processor(template, budget, *, add_bos=True):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(add_bos=add_bos),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    return LlavaProcessor(
        CLIPImageProcessorPil(**PREPROCESSOR),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=budget - PATCHES,
        chat_template=template,
    )


def reference_ids(hf, messages, pictures):
    ids = hf.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        processor_kwargs={"images": [PICTURE] * pictures} if pictures else None,
    )
    return np.asarray(ids).reshape(-1).tolist()


@pytest.mark.parametrize("template", TEMPLATES, ids=["inline", "vicuna", "bos", "blocks"])
@pytest.mark.parametrize("pictures", [0, 1, 3])
@pytest.mark.parametrize("add_bos", [True, False])
def test_ids_equal_those_of_the_processor(template, pictures, add_bos):
    ours, hf = prompter(template, add_bos=add_bos), processor(template, 5, add_bos=add_bos)
    text = "what is in the picture? <b> & 你好 🙂"
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    expected = reference_ids(hf, [{"role": "user", "content": content}], pictures)
    assert ours.encode(text, pictures, slots=5).tolist() == expected
    assert expected.count(ours.image_token_id) == 5 * pictures


@pytest.mark.parametrize("template", [VICUNA, WITH_BOS])
def test_an_image_typed_in_the_text_is_placed_there(template):
    ours, hf = prompter(template), processor(template, 4)
    text = "is <image> like <image>?"
    expected = reference_ids(hf, [{"role": "user", "content": [{"type": "text", "text": text}]}], 2)
    ids = ours.encode(text, 2, slots=4)
    assert ids.tolist() == expected
    decoded = ours.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert "is " + "<image>" * 4 + " like " + "<image>" * 4 + "?" in decoded


IN_ORDER = TEMPLATE.replace("<image>\n", "[<image>]")


@pytest.mark.parametrize("template", [TEMPLATE, IN_ORDER], ids=["line", "brackets"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_where_parts_keep_their_order_a_typed_image_is_one_of_them(template, add_bos):
    """What the template writes around a picture is then there, as the processor has it."""
    ours, hf = prompter(template, add_bos=add_bos), processor(template, 4, add_bos=add_bos)
    image, words = {"type": "image"}, ["is ", " like ", "?"]
    content = [image, *({"type": "text", "text": word} for word in words)]
    content = [content[1], image, content[2], image, image, content[3]]
    expected = reference_ids(hf, [{"role": "user", "content": content}], 3)
    assert ours.encode("is <image> like <image><image>?", 3, slots=4).tolist() == expected
    assert ours.messages("<image>", 1) == [{"role": "user", "content": [image]}]
    carried = ours.messages("see <image>", 1, carried=2)[0]["content"]
    assert carried == [image, image, {"type": "text", "text": "see "}, image]


@pytest.mark.parametrize(
    "refusal", ["{{ raise_exception('one part') }}", "alpha<image>omega", "<image><image>", "none"]
)
def test_a_template_that_cannot_be_asked_keeps_the_text(refusal):
    content = prompter(refusal).messages("is <image>?", 1)[0]["content"]
    in_place = refusal == "alpha<image>omega"  # as if it walked the parts
    assert len(content) == (3 if in_place else 1)


_PROMPTER, _PROCESSOR = prompter(VICUNA), processor(VICUNA, 3)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_ids_equal_for_any_text(text):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    assert _PROMPTER.encode(text, 1, slots=3).tolist() == reference_ids(_PROCESSOR, messages, 1)


def sentencepiece_style_tokenizer():
    """As tokenizer.json of the LLaMA checkpoints: BPE with byte fallback over text whose spaces are
    written as ▁."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    tokenizer.train_from_iterator(
        ["what is in the picture? USER: a red square ASSISTANT:"] * 3, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    return tokenizer


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("template", [VICUNA, WITH_BOS])
def test_ids_equal_for_a_llama_tokenizer_as_transformers_saves_it(tmp_path, legacy, template):
    """transformers 5 rebuilds LlamaTokenizer rather than reading tokenizer.json: what it saves is
    what it uses."""
    sentencepiece_style_tokenizer().save(str(tmp_path / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = LlamaTokenizer.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "saved")
    tokenizer = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    ours = Prompter(
        tokenizer,
        ChatTemplate(template, {"bos_token": "<s>"}),
        tokenizer.token_to_id("<image>"),
        bos_token="<s>",
    )
    hf = LlavaProcessor(
        CLIPImageProcessorPil(**PREPROCESSOR),
        loaded,
        patch_size=4,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=3 - PATCHES,
        chat_template=template,
    )
    text = "what  is in the é picture? 你好"
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    expected = reference_ids(hf, [{"role": "user", "content": content}], 2)
    assert ours.encode(text, 2, slots=3).tolist() == expected


def test_special_tokens_render_as_in_transformers_for_what_it_saves(artifact_dir):
    """In any notation, and those that a tokenizer class names without its configuration doing
    so."""
    source = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ mask_token }}"
    sentencepiece_style_tokenizer().save(str(artifact_dir / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "pad_token": {"content": "</s>", "__type": "AddedToken"},
    }
    (artifact_dir / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = LlamaTokenizer.from_pretrained(artifact_dir)
    messages = [{"role": "user", "content": []}]
    expected = loaded.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert expected.startswith("<s>|</s>|</s>|")
    loaded.save_pretrained(artifact_dir)
    (artifact_dir / "chat_template.jinja").write_text(source)
    data = read_manifest(artifact_dir)
    data["decoder"] |= {
        "image_token_id": loaded.convert_tokens_to_ids("<image>"),
        "vocab": len(loaded),
    }
    write_manifest(artifact_dir, data)
    assert Prompter.from_artifact(Artifact.open(artifact_dir)).render("what?") == expected


def test_the_beginning_of_sequence_comes_once():
    ours = prompter(WITH_BOS)
    bos = ours.tokenizer.token_to_id("<s>")
    assert ours.encode("hi").tolist().count(bos) == 1
    assert prompter(VICUNA).encode("hi").tolist().count(bos) == 1


@pytest.mark.parametrize(
    ("text", "pictures"), [("a <image> b", 0), ("a <image> b", 2), ("<image><image>", 1)]
)
def test_another_number_of_pictures_is_refused(text, pictures):
    with pytest.raises(RequestError, match=f"for {pictures} pictures") as refusal:
        prompter(VICUNA).encode(text, pictures)
    assert refusal.value.setting == "prompt"


def test_a_template_that_drops_pictures_is_refused():
    with pytest.raises(PocketVLMError, match="does not take pictures"):
        prompter("{{ messages[0].content[-1].text }}").encode("hello", 1)


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(PocketVLMError, match=r"cannot read the prompt .*valid Unicode"):
        prompter(VICUNA).encode("what \udcff?")


def test_thousands_of_spaces_in_a_row_are_refused():
    assert len(prompter(VICUNA).encode("a" + " \n" * 2048 + "b")) > 0
    with pytest.raises(RequestError, match="in a row: expected at most 4096"):
        prompter(VICUNA).encode("a" + " \n" * 2049 + "b")


def test_text_that_the_vocabulary_lacks_is_refused():
    tokenizer = Tokenizer(
        models.WordLevel({"<image>": 0, "known": 1}, unk_token="<unk>")
    )  # which it has not
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    ours = Prompter(tokenizer, ChatTemplate("{{ messages[0].content[0].text }}", {}), 0, None)
    assert ours.encode("known").tolist() == [1]
    with pytest.raises(PocketVLMError, match="cannot read the prompt"):
        ours.encode("unknown")


def test_segments_put_features_in_their_slots():
    ours = prompter(VICUNA)
    ids = ours.encode("is <image><image> like <image>", 3, slots=2)
    features = [np.full((2, 8), number, np.float32) for number in range(3)]
    segments = ours.segments(ids, features)
    assert [type(segment) for segment in segments] == [
        TokenSegment,
        EmbeddingSegment,
        EmbeddingSegment,
        TokenSegment,
        EmbeddingSegment,
        TokenSegment,
    ]
    assert sum(map(len, segments)) == len(ids)
    assert [s.inputs_embeds[0, 0] for s in segments if isinstance(s, EmbeddingSegment)] == [0, 1, 2]
    tokens = np.concatenate([s.ids for s in segments if isinstance(s, TokenSegment)])
    assert tokens.tolist() == [i for i in ids if i != ours.image_token_id]


@pytest.mark.parametrize("sizes", [(), (2,), (2, 1), (3, 2), (2, 2, 1), (0, 5), (0,), (4,)])
def test_other_features_than_slots_are_refused(sizes):
    """A graph may give at run time what nobody declared."""
    ours = prompter(VICUNA)
    ids = ours.encode("is <image><image>?", 2, slots=2)
    pictures = [np.zeros((size, 8), np.float32) for size in sizes]
    if sum(sizes) == 4:
        assert sum(map(len, ours.segments(ids, pictures))) == len(ids)
        return
    with pytest.raises(ArtifactError, match=f"gives {sum(sizes)} tokens for 4 places"):
        ours.segments(ids, pictures)


def test_an_image_token_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(ArtifactError, match="image token 9999"):
        Prompter(byte_tokenizer(), ChatTemplate(VICUNA, {}), 9999, None)
