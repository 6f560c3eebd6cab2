"""Time to first token against other runtimes: ``PYTHONPATH=tools python -m compare_peers CHECKPOINT
ARTIFACT``.

The same checkpoint everywhere, the same prompt, a new picture every turn (some keep what a repeated
prompt computed), every peer in an environment and a process of its own, one at a time while the
others are suspended. ARTIFACT is CHECKPOINT exported with all its visual tokens and with the
decoders that `peers` lists.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
from PIL import Image

from benchmark.interleave import Spread, check_quiet, take_turns
from benchmark.options import EXISTING, Section, Timing, into_section, timed
from compare_peers.environments import make_environment
from compare_peers.peers import ENVIRONMENTS, Peer, Sources, peers
from compare_peers.worker import Worker
from pocketvlm import Artifact
from pocketvlm.files import replace_file
from pocketvlm.text.prompts import Prompter
from pocketvlm_measure.profiler.questions import made_up_prompt, noise_picture


@click.command(help=__doc__)
@click.argument("checkpoint", type=EXISTING)
@click.argument("artifact", type=EXISTING)
@click.option("--budget", default=64, show_default=True, help="Visual tokens that we keep.")
@click.option("--new-tokens", default=16, show_default=True, help="Tokens of every answer.")
@click.option("--only", multiple=True, help="Peers whose name contains this; repeat for several.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("build/peers"), show_default=True
)
@click.option("--pip-args", default="", help="For pip, as in the Makefile.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write every sample here."
)
@timed
@into_section("peers")
def main(
    checkpoint: Path,
    artifact: Path,
    budget: int,
    new_tokens: int,
    only: tuple[str, ...],
    folder: Path,
    pip_args: str,
    json_path: Path | None,
    timing: Timing,
    section: Section,
) -> None:
    """Prepare every peer, take turns, print the table, write it where asked."""
    opened = Artifact.open(artifact)
    chosen = [
        peer
        for peer in peers(opened.manifest.pruning.tokens_before, budget)
        if not only or any(part in peer.name for part in only)
    ]
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    question = made_up_prompt(opened)
    settings = {
        "threads": timing.threads,
        "new_tokens": new_tokens,
        "question": question,
        "prompt": Prompter.from_artifact(opened).render(question, pictures=1),
    }
    seeds = itertools.count()
    line = check_quiet(timing.allow_busy)
    with ExitStack() as running:
        workers: dict[str, Worker] = {}
        for peer in chosen:
            python = make_environment(
                folder / peer.environment, ENVIRONMENTS[peer.environment], pip_args.split()
            )
            own = peer.prepare(Sources(checkpoint.resolve(), artifact.resolve(), folder, python))
            workers[peer.name] = running.enter_context(
                Worker(peer.name, python, peer.program, settings | own)
            )
        spreads = take_turns(
            {
                name: partial(ask_next, worker, opened, seeds, folder / "picture.png")
                for name, worker in workers.items()
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
        versions = {name: worker.version for name, worker in workers.items()}
        written = {"note": note, "versions": versions, "samples": samples}
        replace_file(json_path, f"{json.dumps(written, indent=1)}\n".encode())


def ask_next(
    worker: Worker, artifact: Artifact, seeds: Iterator[int], path: Path
) -> dict[str, float]:
    """Ask about a new picture."""
    Image.fromarray(noise_picture(artifact, next(seeds))).save(path)
    return worker.ask(path)


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
