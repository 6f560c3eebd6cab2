"""Knows the environments of the clients: one each, made once and kept by what is in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import platformdirs

from compare_peers.environments import make_environment

# As they were when this was written; each brings what it needs itself.
CLIENTS = {
    "openai": ("openai==3.57.0",),
    "llm": ("llm==0.36",),
    "langchain": ("langchain-openai==1.7.4",),
    "schemathesis": ("schemathesis==4.32.5",),
}


def python_of(name: str) -> Path:
    """The interpreter of a client's environment, which is made where it is not there yet."""
    folder = platformdirs.user_cache_path("pocketvlm") / "serve-clients" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    return make_environment(folder, CLIENTS[name], [])


def version_of(name: str) -> str:
    """A client's name with its version, as installed."""
    package = CLIENTS[name][0].partition("==")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [str(python_of(name)), "-c", code], check=True, capture_output=True, text=True
    )
    return f"{package} {done.stdout.strip()}"
