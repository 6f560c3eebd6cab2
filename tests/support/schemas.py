"""Small JSON schemas whose answers end, and answers of random weights to them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from pocketvlm.decoders.constraints import Grammars
from pocketvlm.decoders.sampler import Sampler
from pocketvlm.decoders.sampling import Sampling
from pocketvlm.text.decoding import token_bytes
from pocketvlm.text.streaming import Detokenizer

texts = st.text('aé中"\\/ \n🙂', max_size=4)
plain_texts = st.text('aé中"\\/ 🙂', max_size=4)
# Written in one way alone: control characters have several.
plain_scalars = st.none() | st.booleans() | st.integers(-99, 99) | plain_texts
scalars = st.none() | st.booleans() | st.integers(-99, 99) | texts
ranges = st.lists(st.integers(-20, 20), min_size=2, max_size=2).map(sorted)
leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    ranges.map(lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[1]}),
    st.lists(scalars, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    scalars.map(lambda value: {"const": value}),
    st.integers(0, 5).map(lambda most: {"type": "string", "maxLength": most}),
    st.just({"type": "string", "pattern": "^[a-f]{2}-\\d$"}),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def made(properties: dict[str, Any], required: set[str]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(required & properties.keys()),
            "additionalProperties": False,
        }

    names = st.sampled_from(["a", "colour", 'é "q"', "中"])
    return st.builds(made, st.dictionaries(names, inner, max_size=3), st.sets(names))


def _branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        _objects(inner),
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(0, 3),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    )


schemas = st.recursive(leaves, _branches, max_leaves=5)


def grammars_of(tokenizer: Any, eos: str = "</s>") -> Grammars:
    return Grammars(lambda: token_bytes(tokenizer), [tokenizer.token_to_id(eos)])


class RandomModel:
    """Logits without any sense, the same again for a seed."""

    def __init__(self, tokenizer: Any, schema: Any, seed: int, grammars: Grammars, **settings: Any):
        self.sampling = Sampling(json_schema=schema, seed=seed, **settings)
        self.tokenizer = tokenizer
        self.eos = tokenizer.token_to_id("</s>")
        self.sampler = Sampler(
            self.sampling,
            [0, 1],
            [self.eos],
            constraint=grammars.constraint(self.sampling.json_schema),
        )
        self._rng = np.random.default_rng(seed)

    def answer(self, most: int, extra: int = 0) -> tuple[list[int], str]:
        """Token ids, the end among them where it came, and the text; logits have ``extra`` ids
        that the tokenizer has not."""
        size, ids = self.tokenizer.get_vocab_size() + extra, []
        text = Detokenizer(self.tokenizer)
        while len(ids) < most:
            ids.append(self.sampler.pick(self._rng.normal(size=size).astype(np.float32)))
            if ids[-1] == self.eos:
                break
            text.push(ids[-1])
        return ids, text.text
