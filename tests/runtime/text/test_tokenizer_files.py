"""tokenizer.json: what published tokenizers have is read, and gives the library's ids; what grows,
takes time out of proportion, or is read otherwise by the library is refused before it gets it."""

import base64
import copy
import json

import pytest
from tokenizers import Tokenizer

from pocketvlm.errors import ArtifactError
from pocketvlm.text.patterns import PatternError, check_pattern
from pocketvlm.text.tokenizer_files import TokenizerFault, check_tokenizer, read_tokenizer
from support import tiny_tokenizers
from support.tiny_artifact import byte_tokenizer

SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s|"
PUBLISHED = [
    SUFFIXES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + ENDS,  # Llama 3
    SUFFIXES + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|" + ENDS,  # Qwen 3.5
    WORDS % ((SUFFIXES + "?",) * 2) + ENDS,  # GPT-4o
    WORDS % ("", "") + ENDS,  # Mistral
    r"[\p{Han}]+|" + (WORDS % ("", "")).replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]") + ENDS,  # Kimi
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # CLIP
    "[!-/:-~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",  # DeepSeek
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",  # cl100k, as published
    r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM
    r" {2,}",
    r"[\r\n]",
    r"\s?\p{L}+",
    r"(\d)",
    "▁",
]
ENDLESS = [
    *(r"(a+)+b", r"(a|a)*b", r"(.*)*", r"a*a*b", r"\s+x", r".*?x", r"a+(?!b)", r"a*(b|c+)d"),
    *(
        r"(?:a?){30}a{30}",
        "a?" * 40 + "a" * 40,
        r"a{1,99999}b",
        r"(a{1,9}){1,9}b",
        "a{0,60}b{0,60}",
    ),
    *(
        r"(\w+)\1",
        r"(?<n>a)\k<n>",
        r"\g<1>",
        r"(?R)",
        r"(?~a)",
        r"(?{x})",
        r"(*FAIL)",
        r"(?(1)a|b)",
    ),
    *(r"\s*[\r\n]+", r"(?=.*x)a", r"(?<=a+)b", r"[A]*[b]+", r"[A]*[b]+|[A]+[c]*", r"a**"),
    *(r"\d{1,3}(?=(?:\d{3})*\b)", r"(?=(\d{3})+(?!\d))"),  # published, and quadratic
    *(r"[a", r"(a", r"a{,}", r"a{2,1}", "", "x" * 5000, "a|" * 100, "\\", "*a", "[[a]"),
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_patterns_of_published_tokenizers_are_read(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_may_go_back_far_are_refused(pattern):
    with pytest.raises(PatternError):
        check_pattern(pattern)


CORES = {
    "bytes": byte_tokenizer(),
    "pieces": tiny_tokenizers.sentence_pieces(),
    **{name: tiny_tokenizers.byte_level(name) for name in tiny_tokenizers.BYTE_LEVEL},
}
SENTENCE_MAP = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"fi\0ss\0").decode()
UNIGRAM = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            {"type": "NFKC"},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
    "post_processor": None,
    "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["b", -2]]},
}
WORDPIECE = {
    "added_tokens": [],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}},
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[UNK]": 0, "[CLS]": 1, "a": 2, "##b": 3},
    },
}
FILES = {name: json.loads(core.to_str()) for name, core in CORES.items()}
FILES |= {"unigram": UNIGRAM, "wordpiece": WORDPIECE}


def refused(reason):
    return ArtifactError(f"cannot be read ({reason})")


@pytest.mark.parametrize("name", FILES)
def test_tokenizers_of_published_kinds_give_the_ids_of_the_library(name):
    text = json.dumps(FILES[name])
    words = "a  red circle, don't 2026 naïve 中文 🦀 ab\n\n"
    ours = read_tokenizer(text, refused)
    assert ours.encode(words).ids == Tokenizer.from_str(text).encode(words).ids


@pytest.mark.parametrize(
    "setting",
    [
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}},
        {"padding": {"strategy": {"Fixed": 10**12}}},
        {"truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0}},
    ],
)  # fmt: skip
def test_a_prompt_is_never_cut_nor_padded(setting):
    ours = read_tokenizer(json.dumps(FILES["bytes"] | setting), refused)
    assert ours.encode("a red circle").ids == CORES["bytes"].encode("a red circle").ids


def replace(source, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: source}, "content": content}


def sequence(inner, steps):
    return {"type": "Sequence", inner: steps}


def split(pattern):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return step | {"invert": False}


def nested(inner, step, depth):
    for _ in range(depth):
        step = sequence(inner, [step])
    return step


def template(parts, ids):
    return {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}},
    }


A, S = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
LONG_MAP = base64.b64encode(bytes(4) + b"a" * 100_000 + b"\0").decode()
HOSTILE = {
    "normalizer": [
        sequence("normalizers", [{"type": "NFC"}] * 60),
        sequence("normalizers", [replace("a", "aa")] * 8),
        sequence("normalizers", [replace(".", "bb", "Regex")] * 4),
        sequence("normalizers", [{"type": "ByteLevel"}] * 7),
        nested("normalizers", {"type": "NFC"}, 4),
        nested("normalizers", {"type": "NFC"}, 60),
        replace("a", "b" * 99),
        replace("", "b"),
        replace("(a+)+b", "c", "Regex"),
        {"type": "Replace", "pattern": {"String": "a", "Regex": "b"}, "content": "c"},
        {"type": "Prepend", "prepend": "a" * 10**6},
        {"type": "Precompiled", "precompiled_charsmap": LONG_MAP},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA////"},
        {"type": "Precompiled", "precompiled_charsmap": "!"},
        {"type": "Python"},
        {"type": ["NFC"]},
        {"normalizers": []},
        {"type": "Sequence", "pretokenizers": []},
        [],
        "NFC",
    ],
    "pre_tokenizer": [
        sequence("pretokenizers", [split("a")] * 60),
        sequence("pretokenizers", [{"type": "ByteLevel"}] * 3),
        split("(a+)+b"),
        split(r"\s+x"),
        split(""),
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": -1},
        {"type": "Custom"},
        {"type": None},
    ],
    "post_processor": [
        template([S] * 300 + [A], [1]),
        template([S, A], [1] * 1000),
        template([S] * 30 + [A], [1] * 30),
        template([A, A], [1]),
        template([{"SpecialToken": {"id": "<t>", "type_id": 0}}, A], [1]),
        sequence("processors", [template([S, A], [1])] * 60),
        {"type": "Lambda"},
        {"type": "TemplateProcessing", "single": "$A", "pair": [], "special_tokens": {}},
    ],
    "decoder": [
        sequence("decoders", [replace("a", "aa")] * 60),
        sequence("decoders", [replace("a", "aaaa")] * 4),
        replace("a", "\x1b" * 100),
        replace("(a+)+b", "c", "Regex"),
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "Strip", "content": " ", "start": 0, "stop": 1},
        {"type": "Strip", "content": " ", "start": 10**9, "stop": 0},
        {"type": "WordPiece", "prefix": "#" * 10**5, "cleanup": True},
        nested("decoders", {"type": "Fuse"}, 5),
    ],
    "model": [
        None,
        [],
        {"type": "Magic", "vocab": {}},
        {"type": "BPE", "vocab": [], "merges": []},
        {"type": "BPE", "vocab": {"a" * 5000: 0}, "merges": []},
        {"type": "BPE", "vocab": {}, "merges": {}},
        {"type": "Unigram", "vocab": {}},
        {"type": "Unigram", "vocab": [["a"]]},
        {"type": "Unigram", "vocab": [[1, 2]]},
        {"type": "Unigram", "vocab": [["a" * 200, -1]]},
        {"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 10**9},
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": 7},
        {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "a" * 1000},
    ],
    "added_tokens": [
        {},
        [7],
        [{"content": 7}],
        [{"content": "a" * 5000}],
        [{"content": "a" * 4000}] * 1000,
        [{"content": "a"}] * 100_001,
    ],
}


@pytest.mark.parametrize(
    ("part", "number"), [(part, n) for part, values in HOSTILE.items() for n in range(len(values))]
)
def test_steps_that_grow_or_never_end_are_refused_before_the_library_reads_them(part, number):
    data = copy.deepcopy(FILES["pieces"]) | {part: HOSTILE[part][number]}
    with pytest.raises(TokenizerFault):
        check_tokenizer(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "model": {}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
        '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        '{"model": {"type": "Unigram", "vocab": [["a", -1]], "unk_id": 9}}',
        '{"model": {"type": "Unigram", "vocab": [["a", NaN]]}}',
        '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}',
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(text):
    with pytest.raises(ArtifactError, match=r"^cannot be read \(.+\)$"):
        read_tokenizer(text, refused)
