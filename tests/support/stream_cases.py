"""Runs command lines with standard streams closed or full, one process each, forked from one that
has imported what they need: ``python -m support.stream_cases FOLDER < cases.json``.

A case is ``{"name", "argv", "streams"}``, streams being ``{"stdin" | "stdout" | "stderr": None |
path}``: None is closed. ``FOLDER/NAME.stdout`` and ``.stderr`` get what is written elsewhere; the
exit codes by name go to standard output.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import click

STREAMS = ("stdin", "stdout", "stderr")


def set_up(name: str, streams: dict[str, str | None], folder: Path) -> None:
    """Give this process its streams, as Python does when it starts with such descriptors."""
    for descriptor, stream in enumerate(STREAMS):
        path = streams.get(stream, os.devnull if stream == "stdin" else folder / f"{name}.{stream}")
        os.close(descriptor)
        opened = None
        if path is not None:
            lowest = os.open(path, os.O_RDONLY if stream == "stdin" else os.O_WRONLY | os.O_CREAT)
            if lowest != descriptor:
                os.dup2(lowest, descriptor)
                os.close(lowest)
            mode = "r" if stream == "stdin" else "w"
            opened = open(descriptor, mode, closefd=False)  # noqa: SIM115 - its life is the process's
        setattr(sys, stream, opened)
        setattr(sys, f"__{stream}__", opened)


def main() -> None:
    """Run all cases one after another."""
    folder, cases = Path(sys.argv[1]), json.load(sys.stdin)
    # Imported once for all, with what the first use of a class brings in.
    from pocketvlm import Artifact, cli
    from pocketvlm.decoders import onnx  # noqa: F401
    from pocketvlm.vlm import VLM  # noqa: F401
    from pocketvlm_measure import machine  # noqa: F401
    from pocketvlm_measure.evaluation import baselines, plan, run, summary, tables  # noqa: F401
    from pocketvlm_measure.evaluation.engines import local  # noqa: F401

    Artifact.open(folder / "artifact")
    for name in cli.main.list_commands(click.Context(cli.main)):
        cli.main.get_command(click.Context(cli.main), name)
    codes = {}
    for case in cases:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                set_up(case["name"], case["streams"], folder)
                cli.main(case["argv"], prog_name="pocketvlm")
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 98
            except BaseException:  # noqa: BLE001 - told to the test
                (folder / f"{case['name']}.traceback").write_text(traceback.format_exc())
            os._exit(code)
        codes[case["name"]] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    json.dump(codes, sys.stdout)


if __name__ == "__main__":
    main()
