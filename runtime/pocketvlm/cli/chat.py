"""Knows `pocketvlm chat`: a conversation on a terminal, or lines from a pipe."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.lists import PATH
from pocketvlm.cli.options import answering_options
from pocketvlm.cli.run import summary
from pocketvlm.cli.streams import input_lines
from pocketvlm.cli.terminal import echo, echo_json, print_pieces, printable
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.files import user_path

if TYPE_CHECKING:
    from PIL import Image

    from pocketvlm import VLM, Sampling
    from pocketvlm.text.streaming import Stream

_COMMANDS = "/image FILE, /video FILE, /reset, /quit"


@click.command(epilog="Example: pocketvlm chat my-artifact --image photo.jpg")
@click.argument("directory", metavar="DIR", type=PATH)
@answering_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object per line, for each answer or refusal.",
)
@click.pass_context
def chat(
    ctx: click.Context,
    directory: Path,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    system: str | None,
    load: Callable[[Path], VLM],
    sampling: Sampling,
    as_json: bool,
) -> None:
    """Talk about pictures with the artifact in DIR, one question per line.

    /image FILE adds a picture to the next question, /video FILE a clip. /reset starts a new
    conversation, /quit or the end of the input ends. Ctrl-C stops an answer, not the program. When
    the context is full, the oldest questions and answers are dropped; their pictures stay if they
    fit in half of it.

    From a pipe, a refused line does not end the conversation, but the exit code is then 1.
    """
    from pocketvlm.answering import without_guide

    vlm = load(directory)
    if vlm.artifact.manifest.decoder.reads_scores:
        raise without_guide()
    conversation = _Conversation(vlm, system, sampling, as_json)
    for image in images:
        conversation.show(image)
    for video in videos:
        conversation.show_clip(video)
    if conversation.interactive:
        echo(f"{vlm.decoder}; {_COMMANDS}", err=True)
    conversation.run()
    if conversation.refused and not conversation.interactive:
        ctx.exit(PocketVLMError.exit_code)


class _Conversation:
    """Lines in, answers out."""

    def __init__(self, vlm: VLM, system: str | None, sampling: Sampling, as_json: bool) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        self.refused = False
        self._chat = vlm.chat(system=system)
        self._layouts = vlm.parts.viewer.layouts
        self._sampling = sampling
        self._as_json = as_json
        self._pictures: list[Image.Image] = []  # to be shown with the next question
        self._clips: list[list[Image.Image]] = []  # their frames

    def run(self) -> None:
        """Until the input ends."""
        for line in self._lines():
            try:
                if line == "/quit":
                    return
                self._obey(line)
            except PocketVLMError as error:
                self._refuse(error)

    def show(self, path: Path) -> None:
        """Read a picture now, so that an unreadable one is refused now."""
        from pocketvlm.text.messages import check_media
        from pocketvlm.vision.viewer import open_medium

        check_media(self._layouts, pictures=True)
        self._pictures.append(open_medium(self._layouts["image"], path))

    def show_clip(self, path: Path) -> None:
        """As `show`, of a clip."""
        from pocketvlm.text.messages import check_media
        from pocketvlm.vision.viewer import open_medium

        check_media(self._layouts, clips=True)
        self._clips.append(open_medium(self._layouts["video"], path))

    def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command == "/image" and argument:
            self.show(user_path(argument.strip()))
        elif command == "/video" and argument:
            self.show_clip(user_path(argument.strip()))
        elif command == "/reset":
            self._chat.reset()
            self._pictures, self._clips = [], []
        elif command.startswith("/"):
            raise RequestError(f"{command} is not a command", expected=_COMMANDS)
        elif line:
            self._ask(line)

    def _ask(self, question: str) -> None:
        dropped = self._chat.dropped_turns
        stream = self._chat.stream(
            question, self._pictures, videos=self._clips, sampling=self._sampling
        )
        self._pictures, self._clips = [], []
        with interrupts_stop(stream):
            if self._as_json:
                answer = dataclasses.asdict(stream.answer)
                echo_json(answer | {"dropped_turns": self._chat.dropped_turns})
                return
            print_pieces(stream)
        if sys.stderr.isatty():
            echo(summary(stream.answer), err=True)
            if (more := self._chat.dropped_turns - dropped) > 0:
                echo(f"the context is full: the oldest {more} questions were dropped", err=True)

    def _refuse(self, error: PocketVLMError) -> None:
        self.refused = True
        message = printable(" ".join(str(error).split()))
        if self._as_json:
            fields = {name: printable(value) for name, value in error.to_dict().items()}
            echo_json({"error": message, **fields})
        else:
            echo(f"error: {message}", err=True)

    def _lines(self) -> Iterator[str]:
        """Stripped lines of standard input, with line editing on a terminal."""
        if self.interactive:
            yield from _typed_lines()
            return
        yield from input_lines()


def _typed_lines() -> Iterator[str]:
    with suppress(ImportError):  # Windows has none, and edits lines by itself
        import readline  # noqa: F401 - input() then edits lines and recalls them
    while True:
        try:
            yield input("> ").strip()
        except KeyboardInterrupt:
            echo("\n/quit or Ctrl-D ends", err=True)
        except EOFError:
            echo()
            return


@contextmanager
def interrupts_stop(stream: Stream) -> Iterator[None]:
    """The first Ctrl-C asks the stream to stop after the token on its way, a second one does not
    wait for it."""

    def stop(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stream.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
