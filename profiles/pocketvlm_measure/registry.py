"""Knows a registry: the module of each name on the command line, imported when it is used."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pocketvlm.plugins import Plugins

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Entries by name, each written as ``module:attribute``, a line each.

    The names alone are what a command line needs for its choices and its help, so nothing is
    imported before an entry is looked up. Those of other packages come last.
    """

    def __init__(
        self,
        places: Mapping[str, str],
        make: Callable[[Any], Entry] = lambda attribute: attribute,
        plugins: Plugins | None = None,
    ) -> None:
        """Register ``places``.

        Args:
            places: {name: "module:attribute"}.
            make: makes an entry of the attribute, such as an instance of a class; by default the
                attribute is the entry.
            plugins: where other packages may add to it.
        """
        self._places = dict(places)
        self._make = make
        self._plugins = plugins

    def __getitem__(self, name: str) -> Entry:
        if name not in self._places and self._plugins is not None:
            return self._plugins.load(name, self._make)
        return self._make(pkgutil.resolve_name(self._places[name]))

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._plugins.names() if self._plugins is not None else ()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def check_own(self, name: str) -> None:
        """See `Plugins.check_own`."""
        if self._plugins is not None:
            self._plugins.check_own(name)
