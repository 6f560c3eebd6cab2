"""Time to first token against other runtimes: ``PYTHONPATH=tools python -m compare_peers CHECKPOINT
ARTIFACT``.

The same checkpoint everywhere, the same prompt, a new picture every turn (some keep what a repeated
prompt computed), every peer in an environment of its own and a process, one at a time while the
others are suspended. Those that differ in what they are asked alone share a process. ARTIFACT is
CHECKPOINT exported with the budgets, and with decoders that `peers` lists.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmark.interleave import Spread, check_quiet, take_turns
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from compare_peers.environments import AVX2_BUILD, avx512_build, make_environment
from compare_peers.peers import AVX2, AVX512, ENVIRONMENTS, Peer, Sources, peers, refusals
from compare_peers.worker import Worker
from install_llama_cpp import CACHE
from pocketvlm import Artifact
from pocketvlm.cli.lists import SIZE
from pocketvlm.files import replace_file
from pocketvlm.layouts import counting_layout, tokens_of_tile
from pocketvlm.text.prompts import Prompter
from pocketvlm_measure.profiler.questions import (
    Question,
    grids_of,
    made_up_prompt,
    noise_picture,
)


@click.command(help=__doc__)
@click.argument("checkpoint", type=EXISTING)
@click.argument("artifact", type=EXISTING)
@click.option(
    "--budgets", type=NUMBERS, default="64", show_default=True, help="Visual tokens that we keep."
)
@click.option("--picture-size", type=SIZE, metavar="WxH", help="The largest by default.")
@click.option("--new-tokens", default=16, show_default=True, help="Tokens of every answer.")
@click.option("--only", multiple=True, help="Peers whose name contains this; repeat for several.")
@click.option("--without", multiple=True, help="But not those whose name contains this.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/peers"),
    show_default=True,
    help="For what the peers make of a checkpoint.",
)
@click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=CACHE / "peers",
    help="For the peers' environments; beside llama.cpp's converter by default.",
)
@click.option("--pip-args", default="", help="For pip, as in the Makefile.")
@click.option("--prepare", is_flag=True, help="Make what the peers need, and measure nothing.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write every sample here."
)
@timed
@into_section("peers")
def main(
    checkpoint: Path,
    artifact: Path,
    budgets: tuple[int, ...],
    picture_size: tuple[int, int] | None,
    new_tokens: int,
    only: tuple[str, ...],
    without: tuple[str, ...],
    folder: Path,
    environments: Path,
    pip_args: str,
    prepare: bool,
    json_path: Path | None,
    timing: Timing,
    section: Section,
) -> None:
    """Prepare every peer, take turns, print the table, write it where asked."""
    opened = Artifact.open(artifact)
    question = Question(made_up_prompt(opened), new_tokens=new_tokens, picture_size=picture_size)
    family = json.loads((checkpoint / "config.json").read_text())["model_type"]
    _, grid = grids_of(opened, question)[0]
    tokens = tokens_of_tile(counting_layout(opened), grid)
    for environment, reason in refusals(family).items():
        click.echo(f"without {environment}: {reason}", err=True)
    avx512 = avx512_build()
    if avx512 is None:
        click.echo(f"without {AVX512}: this CPU has no AVX-512", err=True)
    chosen = [
        peer
        for peer in peers(family, opened.manifest, tokens, budgets)
        if (not only or any(part in peer.name for part in only))
        and not any(part in peer.name for part in without)
        and (avx512 is not None or peer.environment != AVX512)
    ]
    if not chosen:
        raise click.ClickException("no peer has such a name")
    own = folder.resolve() / made_from(checkpoint.resolve())
    own.mkdir(parents=True, exist_ok=True)
    settings = _settings(opened, question, timing)
    asked: dict[str, tuple[Path, str, dict[str, Any]]] = {}
    for peer in chosen:
        python = make_environment(
            environments.resolve() / peer.environment,
            ENVIRONMENTS[peer.environment],
            pip_args.split(),
            AVX2_BUILD if peer.environment == AVX2 else avx512 or AVX2_BUILD,
        )
        sources = Sources(checkpoint.resolve(), artifact.resolve(), own, python)
        asked[peer.name] = (python, peer.program, settings | peer.prepare(sources))
    if prepare:
        return
    seeds = itertools.count()
    line = check_quiet(timing.allow_busy)
    with ExitStack() as running:
        workers: dict[str, Worker] = {}
        for peer in chosen:
            python, program, options = asked[peer.name]
            key = json.dumps([str(python), program, options])
            if key not in workers:
                workers[key] = running.enter_context(Worker(peer.name, python, program, options))
            workers[peer.name] = workers[key]
        spreads = take_turns(
            {
                peer.name: partial(
                    ask_next, workers[peer.name], peer, opened, question, seeds, own / "picture.png"
                )
                for peer in chosen
            },
            timing.repeat,
        )
    note = (
        f"{opened.manifest.source.model}, {timing.threads} threads, {timing.repeat} interleaved "
        f"turns; {line}."
    )
    section.publish("\n".join([note, "", *table(chosen, spreads)]))
    if json_path:
        samples = {
            name: {stage: list(s.samples) for stage, s in stages.items()}
            for name, stages in spreads.items()
        }
        versions = {peer.name: workers[peer.name].version for peer in chosen}
        written = {"note": note, "versions": versions, "samples": samples}
        replace_file(json_path, f"{json.dumps(written, indent=1)}\n".encode())


def made_from(checkpoint: Path) -> str:
    """The name of a folder for what is made of a checkpoint: another one where it was written again
    with other dimensions."""
    sizes = [(file.name, file.stat().st_size) for file in sorted(checkpoint.glob("*.safetensors"))]
    stated = (checkpoint / "config.json").read_bytes() + repr(sizes).encode()
    return f"{checkpoint.name}-{hashlib.sha256(stated).hexdigest()[:8]}"


def _settings(artifact: Artifact, question: Question, timing: Timing) -> dict[str, Any]:
    """The arguments of every peer's program."""
    prompter = Prompter.from_artifact(artifact)
    return {
        "threads": timing.threads,
        "new_tokens": question.new_tokens,
        "question": question.prompt,
        "prompt": prompter.render(question.prompt, pictures=1),
        "image_token": prompter.tokenizer.id_to_token(prompter.image_token_id),
    }


def ask_next(
    worker: Worker,
    peer: Peer,
    artifact: Artifact,
    question: Question,
    seeds: Iterator[int],
    path: Path,
) -> dict[str, float]:
    """Ask about a new picture."""
    size = question.picture_size
    pixels = noise_picture(artifact, next(seeds), size and (size[1], size[0]))
    Image.fromarray(pixels).save(path)
    return worker.ask(path, peer.asks)


def table(chosen: list[Peer], spreads: dict[str, dict[str, Spread]]) -> list[str]:
    """Markdown: a row per peer; the last column compares with the last row, our fastest."""
    best = spreads[chosen[-1].name]["ttft"].median
    lines = [
        "| | prompt tokens | first token, ms: median (smallest-largest) | ms a further token | "
        "peak memory, MB | of the last row |",
        "|---|---|---|---|---|---|",
    ]
    for peer in chosen:
        spread = spreads[peer.name]
        cells = [
            f"{spread['prompt_tokens'].median:.0f}",
            str(spread["ttft"]),
            str(spread["decode"]),
            f"{spread['peak_mb'].median:.0f}",
            f"**{spread['ttft'].median / best:.1f}x**",
        ]
        lines.append(f"| {peer.name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
