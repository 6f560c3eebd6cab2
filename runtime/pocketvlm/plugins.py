"""Knows the packages that add their own entries to a registry: which there are by name, and how one
is loaded so that a broken one affects nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pocketvlm.errors import PocketVLMError, RequestError, first_line

_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_LONGEST_NAME = 40


class Plugins:
    """What installed packages register through one entry-point group, beside a registry's own.

    Names come from the packages' metadata, so that to list them imports nothing; an entry is
    imported when it is asked for. A name that is not a word of small letters, digits, hyphens and
    underscores is passed over, and so is one that the registry has already.
    """

    def __init__(
        self,
        group: str,
        what: str,
        own: Collection[str],
        problem: Callable[[str, Any], str | None],
    ) -> None:
        """Look for entries of ``group``.

        Args:
            group: of entry points, as in ``pocketvlm.metrics``.
            what: an entry is, as an option calls it: "metric".
            own: names that no package may take.
            problem: says what is wrong with a loaded entry, given with its name, to end the
                sentence "metric x cannot be used: ..."; None where nothing is.
        """
        self._group = group
        self._what = what
        self._own = own
        self._problem = problem

    def names(self) -> list[str]:
        """Names that can be asked for beside the registry's own, in order."""
        return sorted({entry.name for entry in self._entries() if entry.name not in self._own})

    def load(self, name: str, make: Callable[[Any], Any] = lambda loaded: loaded) -> Any:
        """Import the entry of this name, and return what ``make`` makes of it.

        Raises:
            KeyError: no package registers it.
            RequestError: it cannot be imported or made, is not what the group is for, or two
                packages register it; one line that names the package.
        """
        return self.load_entry(self.entry(name), make)

    def entry(self, name: str) -> EntryPoint:
        """Return the entry of this name, not imported; raises KeyError where no package registers
        it, `RequestError` where two do."""
        entries = [entry for entry in self._entries() if entry.name == name]
        if not entries or name in self._own:
            raise KeyError(name)
        if len(entries) > 1:
            packages = " and ".join(sorted(package_of(each) for each in entries))
            raise RequestError(
                f"{self._what} {name!r} is registered by {packages}",
                advice="uninstall all but one of them",
                setting=self._what,
            )
        return entries[0]

    def load_entry(
        self, entry: EntryPoint, make: Callable[[Any], Any] = lambda loaded: loaded
    ) -> Any:
        """As `load`, of an entry of the group."""
        try:
            loaded = entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # one that ends the program too: it is only asked for a name
            raise self._failure(entry, error) from error
        try:
            wrong = self._problem(entry.name, loaded)
            if wrong is None:
                return make(loaded)
        except PocketVLMError:
            raise
        except Exception as error:
            raise self._failure(entry, error) from error
        raise self._refusal(entry, wrong)

    @contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """Let what fails within a block, which calls the code of the entry ``name``, be a
        `RequestError`: one line that names the package, with the failure as its cause. A
        `PocketVLMError` is the entry's own refusal, and passes."""
        try:
            yield
        except PocketVLMError:
            raise
        except Exception as error:
            raise self._failure(self.entry(name), error) from error

    def package(self, name: str) -> tuple[str, str] | None:
        """Name and version of the package that registers ``name``, None where none does."""
        entry = next((each for each in self._entries() if each.name == name), None)
        if entry is None or name in self._own:
            return None
        package, _, version = package_of(entry).rpartition(" ")
        return package or version, version

    def check_own(self, name: str) -> None:
        """Refuse a name of the registry's own that a package registers too: whoever asks for it may
        mean either; raises `RequestError`."""
        for entry in self._entries():
            if entry.name == name and name in self._own:
                raise RequestError(
                    f"{self._what} {name!r} is PocketVLM's own, and {package_of(entry)} registers "
                    "it too",
                    advice="give it another name there, or uninstall that package",
                    setting=self._what,
                )

    def _failure(self, entry: EntryPoint, error: BaseException) -> RequestError:
        return self._refusal(entry, f"{type(error).__name__}: {first_line(error)}")

    def _refusal(self, entry: EntryPoint, reason: str) -> RequestError:
        return RequestError(
            f"{self._what} {entry.name!r} of {package_of(entry)} cannot be used ({reason})",
            advice="repair or uninstall that package",
            setting=self._what,
        )

    def _entries(self) -> list[EntryPoint]:
        return [
            entry
            for entry in entry_points(group=self._group)
            if len(entry.name) <= _LONGEST_NAME and _NAME.fullmatch(entry.name)
        ]


def package_of(entry: EntryPoint) -> str:
    """Name and version of the distribution that an entry point comes with; where its metadata is
    incomplete, the module that it names."""
    try:
        stated = (entry.dist.name, entry.dist.version) if entry.dist else ()
    except Exception:  # noqa: BLE001  # metadata that is damaged fails in many ways
        stated = ()
    return " ".join(map(str, stated)) if all(stated) and stated else entry.value.partition(":")[0]
