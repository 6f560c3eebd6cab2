"""Knows `pocketvlm run`: one question, one answer, streamed or as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from pocketvlm.answer import Answer
from pocketvlm.errors import PocketVLMError


@click.command(epilog="Example: pocketvlm run my-artifact --image photo.jpg --prompt 'What is in the picture?'")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture; repeat for several. <image> in the prompt places one, else they come first.",
)
@click.option("--prompt", required=True, metavar="TEXT|-", help="The question; - reads it from standard input.")
@click.option("--decoder", metavar="NAME", help="Decoder engine: onnx where the artifact has it.")
@click.option("--budget", type=int, metavar="K", help="Visual tokens a picture; the artifact's default if not given.")
@click.option("--vision-precision", metavar="P", help="Precision of the vision graph, as listed by `inspect`.")
@click.option("--decoder-precision", metavar="P", help="Precision of the decoder, as listed by `inspect`.")
@click.option("--max-new-tokens", type=int, default=64, show_default=True, metavar="N", help="Limit of the answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T", help="0 is greedy.")
@click.option("--top-p", type=float, default=1.0, show_default=True, metavar="P", help="Nucleus sampling.")
@click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable.")
@click.option("--threads", type=int, metavar="N", help="Threads for each engine; its own default if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with text, tokens and timings.")
def run(
    directory: Path,
    images: tuple[Path, ...],
    prompt: str,
    decoder: str | None,
    threads: int | None,
    vision_precision: str | None,
    decoder_precision: str | None,
    as_json: bool,
    **generation: Any,
) -> None:
    """Answer a question about pictures with the artifact in DIR.

    The answer goes to standard output piece by piece.
    """
    from pocketvlm.vlm import VLM

    if prompt == "-":
        prompt = read_prompt()
    vlm = VLM.load(
        directory,
        decoder=decoder,
        threads=threads,
        budget=generation["budget"],
        vision_precision=vision_precision,
        decoder_precision=decoder_precision,
    )
    stream = vlm.stream(prompt, images, **generation)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(stream.answer), ensure_ascii=False))
        return
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()
    if sys.stderr.isatty():
        click.echo(summary(stream.answer), err=True)


def read_prompt() -> str:
    """The question on standard input, without its line end; raises `PocketVLMError` where it is no text."""
    try:
        return sys.stdin.read().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise PocketVLMError(f"standard input is not valid {error.encoding} ({error.reason}): give text") from error


def summary(answer: Answer) -> str:
    """One line on what the answer cost."""
    tokens, timings = answer.visual_tokens, answer.timings_ms
    line = f"{tokens['after']} of {tokens['before']} visual tokens, " if tokens["before"] else ""
    line += f"first token after {timings['ttft']:.0f} ms"
    if (further := len(answer.token_ids) - 1) and timings["decode"] > 0:
        line += f", then {further / timings['decode'] * 1e3:.1f} tokens/s"
    return line
