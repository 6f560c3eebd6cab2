"""Small tokenizers of the kinds that published decoders have, trained on a few lines."""

from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_LINES = [
    "what is in the picture? a red circle is to the left of the blue square. don't! we've 1234567 "
    "of them",
    "how many shapes are there? which colour is the triangle? is there a green star? naïve café "
    "中文",
    "  two  spaces, 2026,\n\n\tand tabs; CamelCase and UPPER CASE words ...",
] * 2
_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    parts = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(parts)


# By llama.cpp's name, with the pre-tokenizer of the published tokenizer.json.
BYTE_LEVEL = {
    "gpt-2": pre_tokenizers.ByteLevel(False),
    "llama-bpe": split(_LETTERS % "{1,3}"),
    "qwen2": split(_LETTERS % ""),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    ),
}


def byte_level(name: str) -> Tokenizer:
    """Byte-level BPE with <s> and </s>, ``<image>`` and a token of its own that is not special."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = BYTE_LEVEL[name], decoders.ByteLevel()
    special = [
        AddedToken(text, special=True, normalized=False)
        for text in ("<unk>", "<s>", "</s>", "<image>")
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _LINES,
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet),
    )
    core.add_tokens([AddedToken("<box>", special=False, normalized=False)])
    return core


def sentence_pieces() -> Tokenizer:
    """What transformers makes of a SentencePiece model: byte fallback, a visible space, every way
    to merge a piece."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner.train_from_iterator(_LINES, trainers.BpeTrainer(vocab_size=200))
    learned = sorted(learner.get_vocab(), key=learner.token_to_id)
    pieces = [piece for piece in learned if len(piece) > 1] + [
        piece for piece in learned if len(piece) == 1
    ]
    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    core = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    core.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (*special, "<image>")]
    )
    return core


def save(core: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files as transformers does."""
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    extra = {"image_token": "<image>"}
    PreTrainedTokenizerFast(
        tokenizer_object=core, extra_special_tokens=extra, **names
    ).save_pretrained(folder)
