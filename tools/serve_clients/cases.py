"""Knows what the clients ask, and what `pocketvlm.VLM` answers to it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketvlm import VLM, Sampling
from pocketvlm_measure.evaluation.questions import read_questions

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENES = ("scene-1.png", "scene-2.png", "scene-3.png")
MOST_TOKENS = 512  # of an answer whose request states no limit
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue", "yellow", "purple", "white"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 3},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
_DESCRIBE = "Describe the picture."
Turn = tuple[str, Sequence[str | Path]]


@dataclass(frozen=True)
class Case:
    """A conversation and its settings.

    Attributes:
        turns: role and content of each message; parts of a content are texts and paths of pictures.
        keys: of the request, beside the messages; those of OpenAI's.
        extra: further keys, which OpenAI's do not have.
        sampling: the same settings as `Sampling` has them.
        budget: of visual tokens; None is the artifact's.
    """

    turns: Sequence[Turn]
    keys: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None


def cases() -> dict[str, Case]:
    """All of them by name; a name's first word is what it is about."""
    scenes = [EXAMPLES / name for name in SCENES]
    listed = read_questions(EXAMPLES / "questions.jsonl").questions
    asked = {
        f"plain {number}": Case([("user", [Path(each.images[0]), each.text])])
        for number, each in enumerate(listed)
    }
    describe: list[Turn] = [("user", [scenes[1], _DESCRIBE])]
    asked["system"] = Case([("system", ["Answer with one word."]), *describe])
    asked["turns"] = Case(
        [
            *describe,
            ("assistant", ["There are shapes."]),
            ("user", ["How many shapes are there?"]),
            ("assistant", ["two"]),
            ("user", [scenes[2], "And here?"]),
        ]
    )
    asked["text alone"] = Case([("user", ["What colour is the circle?"])])
    asked["two pictures"] = Case([("user", [scenes[0], scenes[2], _DESCRIBE])])
    for budget in (7, 14):
        asked[f"budget {budget}"] = Case(describe, extra={"budget": budget}, budget=budget)
    asked["stop text"] = Case(describe, {"stop": "triangle"}, sampling={"stop": ("triangle",)})
    several = ["never written", " and"]
    asked["stop list"] = Case(describe, {"stop": several}, sampling={"stop": tuple(several)})
    for name, key in (("length", "max_tokens"), ("length too", "max_completion_tokens")):
        asked[name] = Case(describe, {key: 4}, sampling={"max_new_tokens": 4})
    drawn = {"temperature": 1.3, "top_p": 0.9, "seed": 7}
    asked["drawn"] = Case(describe, drawn, sampling=drawn)
    further = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.1}
    asked["drawn further"] = Case(describe, drawn, further, {**drawn, **further})
    penalties = {"presence_penalty": 1.5, "frequency_penalty": 0.7, "logit_bias": {"20": -100}}
    asked["penalties"] = Case(describe, penalties, sampling=penalties)
    named = {"name": "seen", "schema": SCHEMA, "strict": True}
    formats = {"type": "json_schema", "json_schema": named}
    asked["json_schema"] = Case(
        describe, {"response_format": formats}, sampling={"json_schema": SCHEMA}
    )
    asked["json_object"] = Case(
        describe,
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
        sampling={"json_schema": "object", "max_new_tokens": 40},
    )
    return asked


def with_answers(vlm: VLM, every: Mapping[str, Case]) -> dict[str, dict[str, Any]]:
    """Each case as clients send it, with what is to come back."""
    return {name: _with_answer(vlm, case) for name, case in every.items()}


def _with_answer(vlm: VLM, case: Case) -> dict[str, Any]:
    own = [
        {"role": role, "content": [_our_part(part) for part in content]}
        for role, content in case.turns
    ]
    sampling = Sampling(**{"max_new_tokens": MOST_TOKENS, **case.sampling})
    room = vlm.artifact.manifest.decoder.context
    if "max_new_tokens" not in case.sampling:  # as far as the context goes
        length = vlm.generate(
            messages=own, budget=case.budget, sampling=Sampling(max_new_tokens=1)
        ).prompt_tokens["total"]
        most = min(MOST_TOKENS, room - length + 1)
        sampling = Sampling(**{**case.sampling, "max_new_tokens": most})
    answer = vlm.generate(messages=own, budget=case.budget, sampling=sampling)
    return {
        "messages": [
            {"role": role, "content": _their_content(role, content)} for role, content in case.turns
        ],
        "keys": dict(case.keys),
        "extra": dict(case.extra),
        "text": answer.text.lstrip(),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens["total"],
        "completion_tokens": len(answer.token_ids),
    }


def _our_part(part: str | Path) -> dict[str, Any]:
    if isinstance(part, Path):
        return {"type": "image", "image": str(part)}
    return {"type": "text", "text": part}


def _their_content(role: str, content: Sequence[str | Path]) -> str | list[dict[str, Any]]:
    if role != "user" and len(content) == 1:
        return str(content[0])
    return [_their_part(part) for part in content]


def _their_part(part: str | Path) -> dict[str, Any]:
    if isinstance(part, Path):
        return {"type": "image_url", "image_url": {"url": data_uri(part), "detail": "auto"}}
    return {"type": "text", "text": part}


def data_uri(path: Path) -> str:
    """A picture's file as clients send it."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
