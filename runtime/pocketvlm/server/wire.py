"""Knows how the server and its model's process write to each other: a JSON object, then the
pictures as they are.

Nothing is pickled. The process that decodes strangers' pictures can say no more than JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

Message = dict[str, Any]

# Kinds of messages from the server.
ASK, CANCEL, END = "ask", "cancel", "end"
# Kinds from the model's process: about itself, ...
READY, UNFIT = "ready", "unfit"
# ... and about an answer; the latter four are the last about it.
BEGUN, TEXT, DONE, REFUSED, FAILED, GONE = "begun", "text", "done", "refused", "failed", "gone"
LAST = frozenset({DONE, REFUSED, FAILED, GONE})


def send(connection: Connection, message: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write a message with its pictures; raises OSError where nobody reads it any more."""
    connection.send_bytes(json.dumps({**message, "blobs": len(blobs)}).encode())
    for blob in blobs:
        connection.send_bytes(blob)


def receive(connection: Connection) -> tuple[Message, list[bytes]]:
    """Wait for a message; raises EOFError or OSError where the other side has gone."""
    message: Message = json.loads(connection.recv_bytes())
    return message, [connection.recv_bytes() for _ in range(message.pop("blobs"))]
