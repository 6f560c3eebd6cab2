"""Knows the command that tries the web page in headless Chromium: ``python -m browser``.

The demo is exported in float32, a site is written of it, and the page must answer as the runtime
does. It needs Node with npm, and Chromium.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from pocketvlm import VLM
from pocketvlm.web.sites import write_site
from pocketvlm_export import ExportOptions, export

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = ("scene-1.png", "scene-2.png", "scene-3.png")
BUDGETS = (36, 7)
QUESTIONS = ("Describe the picture.", "What colour is the circle?")
COLUMNS = 12  # of the demo's patches
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_here() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@click.command(epilog="Example: PYTHONPATH=tools python -m browser --only keyboard")
@click.option("--only", metavar="TEXT", help="Trials whose name has this in it.")
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    help="The demo in float32; exported if not given.",
)
@click.option("--registry", help="As for `pocketvlm web`.")
@click.option(
    "--screenshots",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "screenshots",
    show_default=True,
    help="Folder for pictures of the page.",
)
def main(only: str | None, artifact: Path | None, registry: str | None, screenshots: Path) -> None:
    """Try the page in Chromium; exit code 1 where a trial fails."""
    chromium = browser_here()
    if chromium is None:
        raise click.ClickException("there is no Chromium here: apt-get install chromium")
    install()
    screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = artifact or exported(Path(scratch) / "demo")
        site = Path(scratch) / "site"
        samples = [EXAMPLES / name for name in PICTURES]
        write_site(site, [folder], samples=samples, questions=QUESTIONS, registry=registry)
        request: dict[str, Any] = {
            "site": str(site),
            "chromium": chromium,
            "only": only,
            "screenshots": str(screenshots.resolve()),
            "columns": COLUMNS,
            "asked": list(expected(folder)),
            "turns": conversation(folder),
        }
        with served(folder) as request["server"]:
            rows = list(driven(request))
    failed = [row for row in rows if row["problem"]]
    click.echo(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not rows else 0)


def install() -> None:
    """Install what drives the browser, as the lock file pins it."""
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=HERE, check=True)


def exported(folder: Path) -> Path:
    """The demo in float32."""
    options = ExportOptions(
        budgets=(BUDGETS[0],), vision_precisions=("fp32",), decoder_precisions=("fp32",)
    )
    export("demo", folder, options)
    return folder


def expected(folder: Path) -> Iterator[dict[str, Any]]:
    """What the runtime answers, and which patches it keeps, of each picture and budget."""
    for place, name in enumerate(PICTURES):
        for budget in BUDGETS:
            with closing(VLM.load(folder, budget=budget)) as vlm:
                question = QUESTIONS[place % len(QUESTIONS)]
                answer = vlm.generate(question, [EXAMPLES / name])
            yield {
                "picture": str(EXAMPLES / name),
                "budget": budget,
                "question": question,
                "tokens": list(answer.token_ids),
                "kept": list(answer.kept_indices[0]),
            }


def conversation(folder: Path) -> dict[str, Any]:
    """What the runtime answers to one question after another about a picture."""
    picture, messages, tokens = EXAMPLES / PICTURES[-1], list[Any](), []
    with closing(VLM.load(folder, budget=BUDGETS[0])) as vlm:
        for place, question in enumerate(QUESTIONS):
            shown = [] if place else [{"type": "image", "image": picture}]
            messages += [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
            answer = vlm.generate(messages=messages)
            said = [{"type": "text", "text": answer.text.strip()}]
            messages += [{"role": "assistant", "content": said}]
            tokens.append(list(answer.token_ids))
    asked = {"picture": str(picture), "budget": BUDGETS[0], "questions": list(QUESTIONS)}
    return {**asked, "tokens": tokens}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `pocketvlm serve`, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from pocketvlm.cli.serve import serve; serve()"
    command = [sys.executable, "-c", program, str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/"
            _wait_for(f"{address}health", process)
            yield address
        finally:
            process.terminate()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until an address answers."""
    while process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address, timeout=10) as reply:
            if reply.status == HTTPStatus.OK:
                return
        time.sleep(0.2)
    raise click.ClickException(f"`pocketvlm serve` ended with {process.returncode}")


def driven(request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What came of each trial, as it ends."""
    command: Sequence[str] = ["node", str(HERE / "drive.mjs")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            row = json.loads(line)
            click.echo(f"{'FAILED' if row['problem'] else 'passed'}  {row['trial']}")
            if row["problem"]:
                click.echo(f"        {row['problem']}")
            yield row
    if process.returncode:
        raise click.ClickException(f"node ended with {process.returncode}")


if __name__ == "__main__":
    main()
