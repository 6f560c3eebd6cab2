"""`pocketvlm serve` asked by the clients that people use: ``PYTHONPATH=tools python -m
serve_clients``.

Exports the demo in float32, serves it, and lets openai, llm and langchain-openai ask what
`pocketvlm.VLM` has answered before. Each is installed in an environment of its own, which is kept
in ~/.cache/pocketvlm. Then schemathesis tries every way to ask that the server's own OpenAPI
description allows, and many clients ask at once, some of which go in the middle. Needs PyPI.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from pocketvlm import VLM, Sampling
from pocketvlm_export import ExportOptions, export
from serve_clients.cases import EXAMPLES, SCENES, SCHEMA, cases, data_uri, with_answers
from serve_clients.environments import python_of, version_of
from serve_clients.load import Load, Question
from serve_clients.rows import Row
from serve_clients.serving import Served
from train_demo.scenes import question_set

KEY = "a key of this test's"
BUDGET = 36
MOST_BYTES = 4_000_000  # of a request's body
TOOLS = Path(__file__).parents[1]
CLIENTS = {
    "openai": "with_openai",
    "llm": "with_llm",
    "langchain": "with_langchain",
}
# One is answered, one waits.
NARROW = ("--parallel", "1", "--queue", "1")
EXAMPLES_EACH = 25  # requests that schemathesis makes of each operation


@click.command(help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/serve-clients"),
    help="Where to export, and for logs.",
)
@click.option(
    "--only",
    type=click.Choice([*CLIENTS, "schemathesis", "load"]),
    multiple=True,
    help="Of all of them these; repeatable.",
)
@click.option("--requests", default=500, show_default=True, help="Of the load.")
@click.option("--clients", default=8, show_default=True, help="That ask at once.")
def main(folder: Path, only: Sequence[str], requests: int, clients: int) -> None:
    """Serve, ask, compare; exit 1 on a difference."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with its servers
    folder.mkdir(parents=True, exist_ok=True)
    artifact = folder / "demo"
    if not artifact.exists():
        export("demo", artifact, ExportOptions(budgets=(BUDGET,)))
    chosen = only or [*CLIENTS, "schemathesis", "load"]
    vlm = VLM.load(artifact, vision_precision="fp32", decoder_precision="fp32")
    given: dict[str, Any] = {"key": KEY, "schema": SCHEMA, "most_bytes": MOST_BYTES}
    given["cases"] = with_answers(vlm, cases()) if set(chosen) & CLIENTS.keys() else {}
    given["files"] = {data_uri(EXAMPLES / name): str(EXAMPLES / name) for name in SCENES}
    options: tuple[str, ...] = ("--vision-precision", "fp32", "--decoder-precision", "fp32")
    options += ("--max-body", str(MOST_BYTES // 1_000_000))
    failed = 0
    with (
        Served(artifact, folder / "server.log", key=KEY, options=options) as served,
        Served(artifact, folder / "narrow.log", key=KEY, options=(*options, *NARROW)) as narrow,
    ):
        given |= {"url": served.url, "narrow": narrow.url, "model": served.models()[0]}
        (folder / "given.json").write_text(json.dumps(given))
        for row in _rows(chosen, folder, served, vlm, clients, requests):
            click.echo(str(row))
            failed += row.asked - row.same
    click.echo("all as expected" if not failed else f"{failed} are not as expected")
    raise SystemExit(1 if failed else 0)


def _rows(
    chosen: Sequence[str], folder: Path, served: Served, vlm: VLM, clients: int, requests: int
) -> Iterator[Row]:
    for name, module in CLIENTS.items():
        if name in chosen:
            yield from _by_client(name, module, folder / "given.json")
    if "schemathesis" in chosen:
        yield _by_schemathesis(served, folder / "schemathesis.log")
    if "load" in chosen:
        yield _by_many(served, vlm, clients, requests)


def _by_client(name: str, module: str, given: Path) -> Iterator[Row]:
    """A client's own rows, as they come; one more where it did not get to its end."""
    done = subprocess.Popen(
        [str(python_of(name)), "-m", f"serve_clients.{module}", str(given.resolve())],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
    )
    assert done.stdout is not None
    for line in done.stdout:
        yield Row(**json.loads(line))
    if code := done.wait():
        yield Row(version_of(name), "the whole", 0, 1, f"it ended with exit code {code}")


def _by_schemathesis(served: Served, log: Path) -> Row:
    """Whether nothing that the description allows makes an error of the server's, or an answer that
    it does not describe."""
    command = [
        *(str(python_of("schemathesis").with_name("st")), "run", f"{served.root}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}", "--max-examples", str(EXAMPLES_EACH)),
        *("--no-color", "--seed", "1"),
        # What is valid depends on the artifact too: its precisions, pictures that can be decoded.
        *("--exclude-checks", "positive_data_acceptance"),
    ]
    with log.open("w") as file:
        # It leaves a folder of what it found where it runs.
        done = subprocess.run(command, stdout=file, stderr=file, cwd=log.parent, check=False)
    code = done.returncode
    note = "" if code == 0 else f"see {log}"
    return Row(version_of("schemathesis"), "openapi.json", int(code == 0), 1, note)


def _by_many(served: Served, vlm: VLM, clients: int, requests: int) -> Row:
    """Each with a picture of its own, whose description is no other's."""
    tally = Load(served.url, _questions(vlm, clients), key=KEY).run(requests)
    print(tally, file=sys.stderr)
    whole = tally.right + tally.dropped
    return Row("load", f"{clients} clients, {requests} requests", whole, requests, str(tally))


def _questions(vlm: VLM, count: int) -> list[Question]:
    asked: dict[str, Question] = {}
    text = "Describe the picture."
    for picture, _ in question_set("test", 40 * count, per_picture=1):
        answer = vlm.generate(text, [picture], sampling=Sampling(max_new_tokens=64))
        answer_text = answer.text.lstrip()
        if answer_text not in asked:
            url = _png_uri(picture)
            content = [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": text},
            ]
            messages = [{"role": "user", "content": content}]
            asked[answer_text] = Question(messages, answer_text, {"max_tokens": 64})
        if len(asked) == count:
            break
    return list(asked.values())


def _png_uri(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


if __name__ == "__main__":
    main()
