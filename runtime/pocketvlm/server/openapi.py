"""Knows the description of a server in OpenAPI's words, made from the schemas that requests are
compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pocketvlm
from pocketvlm.server.messages import MOST_MESSAGES
from pocketvlm.server.service import ServerOptions
from pocketvlm.server.settings import PROPERTIES

_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_PICTURE_PART = {
    "type": "object",
    "required": ["type", "image_url"],
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": {
                    "type": "string",
                    "pattern": "^data:(image/[a-z+.-]+)?;base64,",
                    "description": "the picture itself; nothing is fetched",
                }
            },
        },
    },
}


def _message(roles: list[str], *parts: Mapping[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "minItems": 1, "items": {"anyOf": list(parts)}}
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": roles},
            "content": {"anyOf": [{"type": "string"}, several]},
        },
    }


_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_MESSAGES,
    "description": "the last is the user's",
    "items": {
        "anyOf": [
            _message(["system", "developer", "assistant"], _TEXT_PART),
            _message(["user"], _TEXT_PART, _PICTURE_PART),
        ]
    },
}
_REQUEST = {
    "type": "object",
    "required": ["messages"],
    "properties": {"messages": _MESSAGES, **PROPERTIES},
    "description": "Keys that are not listed are ignored.",
}
_WHOLE = {"type": "integer", "minimum": 0}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        "prompt_tokens": _WHOLE,
        "completion_tokens": _WHOLE,
        "total_tokens": _WHOLE,
        "prompt_tokens_details": {
            "type": "object",
            "properties": {"cached_tokens": _WHOLE},
        },
    },
}
_TILE = {
    "type": "object",
    "required": ["rows", "columns", "whole", "kept", "patches"],
    "properties": {
        "rows": _WHOLE,
        "columns": _WHOLE,
        "whole": {"type": "boolean", "description": "it shows all of what others show in parts"},
        "kept": {
            "type": "array",
            "items": _WHOLE,
            "description": "patches in raster order: row times columns plus column",
        },
        "patches": {
            "type": ["array", "null"],
            "description": "left, top, width, height in the picture, the best patch first",
            "items": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
        },
    },
}
_PICTURE = {
    "type": "object",
    "properties": {
        "width": {"type": ["integer", "null"]},
        "height": {"type": ["integer", "null"]},
        "rows": {**_WHOLE, "description": "of its tiles"},
        "columns": _WHOLE,
        "tokens_before": _WHOLE,
        "tokens_kept": _WHOLE,
        "tiles": {"type": "array", "items": _TILE},
    },
}
_DETAILS = {
    "type": "object",
    "description": "What of each picture was kept, and the time by stage.",
    "properties": {
        "budget": _WHOLE,
        "decoder": {"type": "string"},
        "token_ids": {"type": "array", "items": _WHOLE},
        "visual_tokens": _WHOLE,
        "visual_tokens_before": _WHOLE,
        "kept": {"type": "array", "items": _PICTURE},
        "timings": {
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "milliseconds; decode is of one further token",
        },
    },
}
_ANSWER = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": _WHOLE,
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["index", "message", "finish_reason"],
                "properties": {
                    "index": {"const": 0},
                    "message": {
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": {"type": "string"},
                            "pocketvlm": _DETAILS,
                        },
                    },
                    "finish_reason": {"enum": ["stop", "length"]},
                },
            },
        },
        "usage": _USAGE,
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": _WHOLE,
        "owned_by": {"type": "string"},
        "pocketvlm": {"type": "object"},
    },
}
_SCHEMAS = {
    "Request": _REQUEST,
    "Answer": _ANSWER,
    "Error": _ERROR,
    "Model": _MODEL,
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status", "server", "version"],
        "properties": {
            "status": {"enum": ["ok", "loading", "restarting", "closed"]},
            "server": {"const": "pocketvlm"},
            "version": {"type": "string"},
            "running": _WHOLE,
            "waiting": _WHOLE,
        },
    },
}
_REASONS = {
    400: "The request cannot be served as it is.",
    401: "The key is missing or wrong.",
    403: "The host, or the page that the request comes from, is not let in.",
    404: "There is no such model.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    415: "The content type is not application/json.",
    429: "Too many requests wait; Retry-After says when to ask again.",
    500: "The server failed; its log says why.",
    503: "The model cannot be asked now; Retry-After says when to ask again.",
}


def describe(options: ServerOptions, *, keyed: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server; ``keyed`` where requests need a key."""
    answers = {
        **_json("Answer"),
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'data: {"object": "chat.completion.chunk", ...}\n\ndata: [DONE]\n\n',
        },
    }
    completions = {
        "operationId": "complete",
        "summary": "Answer a conversation, with pictures in it.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("Request")}},
        },
        "responses": {
            "200": {"description": "The answer, or its pieces.", "content": answers},
            **_refusals(keyed, 400, 403, 404, 408, 413, 415, 429, 500, 503),
        },
    }
    one_model = _get("model", "The model.", "Model", _refusals(keyed, 403, 404))
    one_model["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    unfit = {"503": {"description": _REASONS[503], "content": _json("Health")}}
    health = _get("health", "Whether it answers.", "Health", unfit)
    health["security"] = []  # who watches over servers has no key
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "PocketVLM",
            "version": pocketvlm.__version__,
            "description": f"OpenAI's chat completions of {options.name}, data: URIs only.",
        },
        "paths": {
            "/v1/chat/completions": {"post": completions},
            "/v1/models": {"get": _get("models", "The model.", "Models", _refusals(keyed, 403))},
            "/v1/models/{name}": {"get": one_model},
            "/health": {"get": health},
        },
        "components": {"schemas": _SCHEMAS},
    }
    if keyed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _get(name: str, summary: str, schema: str, refusals: Mapping[str, Any]) -> dict[str, Any]:
    answer = {"description": summary, "content": _json(schema)}
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **refusals}}


def _refusals(keyed: bool, *statuses: int) -> dict[str, Any]:
    return {
        str(status): {"description": _REASONS[status], "content": _json("Error")}
        for status in sorted({*statuses, *((401,) if keyed else ())})
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema)}}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}
