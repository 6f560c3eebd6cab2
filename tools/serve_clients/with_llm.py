"""Asks by the command ``llm``, as people type it: ``python -m serve_clients.with_llm GIVEN``, in
its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve_clients.rows import Checks, equal, read_given

_CONFIG = """\
- model_id: served
  model_name: {model}
  api_base: "{url}"
  api_key_name: served
  vision: true
  supports_schema: true
"""


def main() -> None:
    """All checks, a row each."""
    given = read_given()
    checks = Checks(f"llm {version('llm')}")
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(given, Path(folder))
        names = [name for name in given["cases"] if name.startswith("plain")][:6]
        checks.check("streamed, a picture", [partial(asked.question, name) for name in names])
        checks.check("whole", [partial(asked.question, names[0], "--no-stream")])
        checks.check("system", [asked.system])
        checks.check("stop and max_tokens", [asked.options])
        checks.check("three turns (-c)", [asked.turns])
        checks.check("a schema (--schema)", [asked.schema])
        checks.check("a wrong key and a wrong picture", [asked.wrong_key, asked.wrong_picture])


class Asked:
    """The command, with a folder of its own for settings and logs."""

    def __init__(self, given: dict[str, Any], folder: Path) -> None:
        self._given = given
        self._cases = given["cases"]
        self._folder = folder
        text = _CONFIG.format(model=given["model"], url=given["url"])
        (folder / "extra-openai-models.yaml").write_text(text, encoding="utf-8")
        self._run("keys", "set", "served", "--value", given["key"])

    def question(self, name: str, *further: str) -> None:
        """One question about a picture."""
        case = self._cases[name]
        equal(self._ask(*_question(self._given, name), *further), case["text"])

    def system(self) -> None:
        """A system message before the question."""
        case = self._cases["system"]
        said = case["messages"][0]["content"]
        equal(self._ask(*_question(self._given, "system"), "-s", said), case["text"])

    def options(self) -> None:
        """What ends an answer."""
        for name in ("stop text", "length"):
            case = self._cases[name]
            options = [
                part for key, value in case["keys"].items() for part in ("-o", key, str(value))
            ]
            equal(self._ask(*_question(self._given, name), *options).strip(), case["text"].strip())

    def turns(self) -> None:
        """The conversation continues, with the picture of its first question. What it answers to
        the later ones depends on what it said before, so that it answers is all that is known."""
        self.question("plain 0")
        for question in ("How many shapes are there?", "And which colours?"):
            assert self._ask(question, "-c")

    def schema(self) -> None:
        """An object with the keys that were asked for."""
        text = self._ask(
            *_question(self._given, "json_schema"), "--schema", json.dumps(self._given["schema"])
        )
        equal(json.loads(text), json.loads(self._cases["json_schema"]["text"]))

    def wrong_key(self) -> None:
        """The server's own words."""
        done = self._run("-m", "served", "hi", "--key", "wrong", check=False)
        assert done.returncode == 1
        assert "401" in done.stderr or "key" in done.stderr.lower(), done.stderr

    def wrong_picture(self) -> None:
        """An address is refused, not fetched."""
        done = self._run(
            "-m", "served", "hi", "--at", "https://example.com/a.png", "image/png", check=False
        )
        assert done.returncode == 1
        assert "400" in done.stderr or "data:" in done.stderr, done.stderr

    def _ask(self, *arguments: str) -> str:
        return self._run("-m", "served", *arguments).stdout.removesuffix("\n")

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env={**os.environ, "LLM_USER_PATH": str(self._folder)},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise AssertionError(done.stderr.strip()[-300:])
        return done


def _question(given: dict[str, Any], name: str) -> list[str]:
    """A case's last message as arguments."""
    content = given["cases"][name]["messages"][-1]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [*texts, *(part for url in pictures for part in ("-a", given["files"][url]))]


if __name__ == "__main__":
    main()
