"""tokenizer.json: read, and used on texts of the people who ask."""

import json
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fuzz.base import Target, put
from fuzz.json_changes import changed, written
from pocketvlm.errors import ArtifactError
from pocketvlm.text.prompts import _token_ids
from pocketvlm.text.streaming import Detokenizer
from pocketvlm.text.tokenizer_files import read_tokenizer
from support.tiny_artifact import CORPUS, byte_tokenizer

_TEXTS = (
    "what is in the picture?",
    "naïve café 你好 🙂 <image></s>",
    " a" * 2000,
    "a" * 4000,
    "\0\n\t" * 50,
    "",
)
_PATTERNS = (
    r"(a+)+$", r"\p{L}+|\p{N}", r"(?i:'s|'t)|\s+(?!\S)|\s+", r"(.*)*b", r"(?:a|a?)+", "[",
    r"\1(a)", "", r"(?=(a+))*", r"a{1,99999}", r"(?<=a{9})b",
)  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "a tokenizer that crashes the library, lets a text explode, or backtracks for hours"

    def prepare(self, folder: Path) -> None:
        del folder
        unigram = Tokenizer(
            models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("a", -2.5)], 0)
        )
        unigram.pre_tokenizer = pre_tokenizers.Metaspace()
        unigram.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")]
        )
        unigram.decoder = decoders.Metaspace()
        pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "what": 1, "##s": 2}, unk_token="[UNK]"))
        pieces.normalizer = normalizers.BertNormalizer()
        pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        pieces.decoder = decoders.WordPiece()
        split = Tokenizer(models.BPE(byte_fallback=True))
        split.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{L}+|\s+"), "isolated"),
                pre_tokenizers.ByteLevel(False, use_regex=False),
            ]
        )
        split.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        split.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=270, show_progress=False))
        self.documents = [
            json.loads(each.to_str()) for each in (byte_tokenizer(), unigram, pieces, split)
        ]

    def write(self, random: Random, box: Path) -> None:
        document = changed(random, random.choice(self.documents))
        if random.random() < 0.1 and isinstance(document, dict):
            document["pre_tokenizer"] = {
                "type": "Split",
                "pattern": {"Regex": random.choice(_PATTERNS) * random.choice((1, 2))},
                "behavior": "Isolated",
                "invert": False,
            }
        put(box / "tokenizer.json", written(random, document))

    def use(self, box: Path) -> None:
        def refusal(reason: str) -> ArtifactError:
            return ArtifactError(f"tokenizer.json cannot be read ({reason})")

        try:
            text = (box / "tokenizer.json").read_text(encoding="utf-8")
        except ValueError as error:
            raise refusal("no UTF-8") from error
        tokenizer = read_tokenizer(text, refusal)
        # As `Prompter` and answers use it.
        for each in _TEXTS:
            detokenizer = Detokenizer(tokenizer, ["stop"])
            for token_id in _token_ids(tokenizer, each, add_special=True)[:200]:
                detokenizer.push(token_id)
            detokenizer.finish()
