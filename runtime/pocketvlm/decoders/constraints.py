"""Knows how an answer is held to a JSON schema token by token, by the library llguidance."""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import RequestError, first_line, library_errors

# Between the parts of the answer: nothing, a space, or a new line with its indentation. Any
# whitespace would be valid too, and models that have lost their way write it without end.
_WHITESPACE = r" |\r?\n[ \t]{0,16}"
# A model's first token often begins with a space or comes on a new line. Which tokens write a text
# is left to the model (no_forcing), so that an answer that fits comes as it would without a schema.
_WHOLE = '%llguidance {"no_forcing": true}\nstart: BEFORE? @answer\nBEFORE: /[ \\n]/\n'
# Of the library's own: what it takes to compile a schema, and to compute one mask. Within these a
# hostile schema takes well under a second, and a mask some milliseconds.
_LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 30_000,  # 1 to 2 kB each
    "max_grammar_size": 60_000,
    "max_items_in_row": 2_000,
}
_KEPT = 8  # schemas of one model that stay compiled


class Constraint:
    """What one answer may continue with; it follows the answer token by token."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_whole(self) -> bool:
        """Whether the answer is valid as it is, and nothing but its end may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, size: int) -> npt.NDArray[np.bool_]:
        """Which of the ids below ``size`` may come next, bool (size,).

        Raises:
            RequestError: computing it takes more than the limits here, or no token of the
                vocabulary leads to a valid answer.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        of_vocabulary = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        return np.pad(of_vocabulary, (0, size - len(of_vocabulary)))

    def follow(self, token_id: int) -> None:
        """The answer continues with this token, one of those that are allowed."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        # Of an error the library makes a mask with the end of the answer alone.
        if self._matcher.is_error():
            raise _refusal("cannot be followed further", self._matcher.get_error())


class Grammars:
    """Makes the constraints of one model's answers.

    The first takes about a second for a large vocabulary; a schema that was used lately is not
    compiled again. Any number of threads may ask.
    """

    def __init__(
        self, token_bytes: Callable[[], Sequence[bytes] | None], eos_token_ids: Iterable[int]
    ) -> None:
        """Do nothing yet.

        Args:
            token_bytes: gives what each token writes, by id, empty where it writes nothing; None
                where a tokenizer does not say, see `pocketvlm.text.decoding.token_bytes`.
            eos_token_ids: those that end an answer.
        """
        self._token_bytes = token_bytes
        self._eos = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def constraint(self, schema: str | Mapping[str, Any] | None) -> Constraint | None:
        """The constraint of a new answer by a schema, as `Sampling.json_schema` holds it; None
        where that does.

        Raises:
            RequestError: llguidance is missing, or this model's tokenizer does not say what a
                single token writes.
        """
        if schema is None:
            return None
        schema = str(schema)
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = self._read_vocabulary()
            if schema not in self._compiled:
                self._compiled[schema] = self._compile(schema)
            self._compiled.move_to_end(schema)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return Constraint(self._compiled[schema].deep_copy())

    def _read_vocabulary(self) -> Any:
        tokens = self._token_bytes()
        if tokens is None or not self._eos:
            what = "tell what a single token writes" if tokens is None else "end an answer"
            raise RequestError(
                f"the tokenizer of this model does not {what}",
                advice="leave json_schema out",
                setting="json_schema",
            )
        library = _library()
        with library_errors(lambda reason: _refusal("does not go with this tokenizer", reason)):
            return library.LLTokenizer(
                _Vocabulary(tokens, self._eos),
                eos_token=self._eos,
                slices=library.LLTokenizer.json_slices(),
            )

    def _compile(self, schema: str) -> Any:
        library = _library()
        matcher = library.LLMatcher(
            self._vocabulary, _grammar(schema), log_level=0, limits=_limits(library)
        )
        if matcher.is_error():
            raise _refusal("cannot be made a grammar", matcher.get_error())
        return matcher


class _Vocabulary:
    """What llguidance reads of a tokenizer, under its names."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], eos_token_ids: Sequence[int]) -> None:
        size = max(len(tokens), eos_token_ids[-1] + 1)
        self.tokens = [*tokens, *[b""] * (size - len(tokens))]
        for token in eos_token_ids:
            self.tokens[token] = b"<end>"  # never written: it is marked as special
        self.eos_token_id = eos_token_ids[0]
        self.special_token_ids = list(eos_token_ids)

    def __call__(self, text: str) -> list[int]:
        """Texts to ids, which no grammar here asks for."""
        raise NotImplementedError


@functools.lru_cache(maxsize=64)
def check_grammar(schema: str) -> None:
    """Refuse a schema, given as JSON text, that no grammar can be made of.

    Raises:
        RequestError: see above; or llguidance is missing.
    """
    library = _library()
    with library_errors(lambda reason: _refusal("cannot be made a grammar", reason)):
        fault = library.LLMatcher.validate_grammar(_grammar(schema), limits=_limits(library))
    if fault:
        raise _refusal("cannot be made a grammar", fault)


def _grammar(schema: str) -> str:
    """Both grammars that an answer follows, as llguidance reads them."""
    # Of several settings under the name of the library the last counts: ours.
    answer = {**json.loads(schema), "x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return json.dumps(
        {"grammars": [{"lark_grammar": _WHOLE}, {"name": "answer", "json_schema": answer}]}
    )


def _limits(library: ModuleType) -> Any:
    return library.LLParserLimits(**_LIMITS, verbose_errors=False)


def _library() -> ModuleType:
    """llguidance, which is read only where a schema is used."""
    try:
        import llguidance
    except ImportError as error:
        raise RequestError(
            f"json_schema needs the package llguidance ({first_line(error)})",
            advice="pip install 'pocketvlm[grammar]'",
            setting="json_schema",
        ) from error
    return llguidance


def _refusal(fault: str, reason: str) -> RequestError:
    lines = [line for line in str(reason).splitlines() if line.strip()]
    line = lines[0].strip()[:200] if lines else "no reason given"
    return RequestError(
        f"the JSON schema {fault} ({line})",
        advice="simplify it",
        setting="json_schema",
    )
