"""Runs `pocketvlm` and writes down what it does that a checkpoint must not bring it to, by Python's
audit events: OUT.json FOLDER ARGUMENTS...

Files that it opens in FOLDER, classes that pickles name, programs that it starts, hosts that it
asks for. The interpreter raises these events itself, whoever calls it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_EVENTS: dict[str, list[str]] = {"opened": [], "unpickled": [], "started": [], "asked": []}
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
_ASKS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect")


def main() -> None:
    """See the module."""
    out, folder, *arguments = sys.argv[1:]
    inside = os.path.realpath(folder) + os.sep

    def hear(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(details[0]))
            if path.startswith(inside):
                _EVENTS["opened"].append(path.removeprefix(inside))
        elif event == "pickle.find_class":
            _EVENTS["unpickled"].append(".".join(map(str, details[:2])))
        elif event in _STARTS:
            _EVENTS["started"].append(repr(details)[:200])
        elif event in _ASKS:
            _EVENTS["asked"].append(repr(details)[-200:])

    sys.addaudithook(hear)
    from pocketvlm.cli import main as command

    try:
        command(arguments, prog_name="pocketvlm")
    finally:
        written = {name: sorted(set(values)) for name, values in _EVENTS.items()}
        Path(out).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
