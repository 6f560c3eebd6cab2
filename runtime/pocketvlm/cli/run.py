"""Knows `pocketvlm run`: one question, one answer, streamed or as JSON."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.answer import Answer, GuidedAnswer
from pocketvlm.cli.lists import PATH, TEXT
from pocketvlm.cli.options import answering_options, as_guide, guide_options
from pocketvlm.cli.streams import input_text
from pocketvlm.cli.terminal import echo, echo_json, print_pieces

if TYPE_CHECKING:
    from pocketvlm import VLM, Chat, Sampling
    from pocketvlm.guided import Guided

_CAPS = {"max_pixels": "at most {} pixels a picture, ", "max_tiles": "at most {} parts, "}


@click.command(
    epilog="Example: pocketvlm run my-artifact --image photo.jpg --prompt 'What is in the picture?'"
)
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--prompt",
    type=TEXT,
    required=True,
    metavar="TEXT|-",
    help="The question; - reads it from standard input.",
)
@guide_options
@answering_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object with text, tokens and timings."
)
def run(
    directory: Path,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    prompt: str,
    guide: Path | None,
    confidence: float | None,
    system: str | None,
    load: Callable[..., VLM],
    sampling: Sampling,
    as_json: bool,
) -> None:
    """Answer a question about pictures, or clips, with the artifact in DIR.

    The answer goes to standard output as it is generated; on a terminal, its cost goes to standard
    error.
    """
    if guide is None and confidence is not None:
        raise click.UsageError("--confidence is the guide's: give --guide too")
    if guide is not None and system is not None:
        raise click.UsageError("--system and --guide do not go together")
    if prompt == "-":
        prompt = input_text().rstrip("\r\n")
    # A process that answers once ends before copies of the weights would pay, and need not hold
    # the vision graphs and the decoder at the same time.
    vlm = load(directory, prepack=False, once=guide is None)
    asked: VLM | Guided | Chat = vlm if system is None else vlm.chat(system=system)
    if guide is not None:
        from pocketvlm.guided import Guided

        asked = Guided(vlm, as_guide(load, guide, vlm, prepack=False), confidence=confidence)
    stream = asked.stream(prompt, images, videos=videos, sampling=sampling)
    if as_json:
        answer = dataclasses.asdict(stream.answer)
        # As `print_pieces` does; in Python the text is that of the tokens.
        echo_json(answer | {"text": answer["text"].lstrip()})
        return
    print_pieces(stream)
    if sys.stderr.isatty():
        echo(summary(stream.answer), err=True)
        if vlm.artifact.manifest.decoder.pair:
            echo(f"{vlm.decoder}: {vlm.precision_reason}", err=True)


def summary(answer: Answer) -> str:
    """One line on what answered, and what the answer cost."""
    tokens, prompt, timings = answer.visual_tokens, answer.prompt_tokens, answer.timings_ms
    line = f"{answer.decoder}: "
    if isinstance(answer, GuidedAnswer):
        alone = ", its answer" if answer.answered_by == "guide" else ""
        spent = answer.guide.timings_ms["total"]
        line = f"guide {spent:.0f} ms, confidence {answer.confidence:.2f}{alone}; {line}"
    line += f"{tokens['after']} of {tokens['before']} visual tokens, " if tokens["before"] else ""
    line += "".join(_CAPS[name].format(cap) for name, cap in answer.caps.items())
    if whole := answer.pictures_below_budget:
        which = "1 picture has" if whole == 1 else f"{whole} pictures have"
        line += f"{which} fewer than the budget and kept all, "
    if reduced := answer.pictures_reduced:
        which = "1 picture was" if reduced == 1 else f"{reduced} pictures were"
        line += f"{which} read at a fraction of the size for the memory that it would take, "
    if anew := answer.pictures_selected_anew:
        which = "1 picture was" if anew == 1 else f"{anew} pictures were"
        line += f"{which} selected again by the question, "
    line += (
        f"{' and then '.join(map(str, tokens['stages']))} of them in later layers, "
        if "stages" in tokens and tokens["before"]
        else ""
    )
    line += (
        f"{prompt['cached']} of {prompt['total']} prompt tokens cached, "
        if prompt["cached"]
        else ""
    )
    line += f"first token after {timings['ttft']:.0f} ms"
    if (further := len(answer.token_ids) - 1) and timings["decode"] > 0:
        line += f", then {further / timings['decode'] * 1e3:.1f} tokens/s"
    return line
