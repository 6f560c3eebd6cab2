"""Knows how a chat template is rendered: jinja2's sandbox, set up as transformers does; templates
are untrusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.text.sandbox import Sandbox
from pocketvlm.text.work import Work, size_of, working

_MAX_SOURCE = 1 << 18  # characters; the longest published templates have some 30,000
_MAX_REASON = 300  # characters of a refusal


class ChatTemplate:
    """A compiled chat template. It cannot run forever: what it goes through, makes and writes is
    bounded, in proportion to the conversation.

    Args:
        source: the jinja2 source, as in chat_template.jinja.
        special_tokens: names such as ``bos_token`` that the template may use, with their texts.

    Raises:
        ArtifactError: the source does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        if len(source) > _MAX_SOURCE:
            raise ArtifactError(
                f"the chat template has {len(source)} characters", expected=f"at most {_MAX_SOURCE}"
            )
        try:
            self._template = working(Work(), lambda: Sandbox().metered(source))
        except Exception as error:  # it is a program: what it raises has no common base class
            raise ArtifactError(
                f"the chat template does not compile ({_reason(error)})", advice="export it again"
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt text up to where the assistant begins to speak; raises `PocketVLMError` where
        it refuses."""
        variables = self._special_tokens | {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        try:
            work = Work(size_of(messages), len(messages))
            return working(work, lambda: self._write(variables, work))
        except Exception as error:  # as above
            raise RequestError(
                f"the chat template refuses this conversation: {_reason(error)}"
            ) from error

    def _write(self, variables: Mapping[str, Any], work: Work) -> str:
        pieces = []
        for piece in self._template.generate(variables):
            work.write(piece)
            pieces.append(piece)
        return "".join(pieces)


def _reason(error: Exception) -> str:
    """One line, whatever a template raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a message that cannot be made
        text = ""
    return " ".join(text[: 4 * _MAX_REASON].split())[:_MAX_REASON] or type(error).__name__
