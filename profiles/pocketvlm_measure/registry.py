"""Knows a registry: what each name of a command line stands for, imported when it is asked for."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Entries by name, each written as ``module:attribute``, a line each.

    The names alone are what a command line needs for its choices and its help, so nothing is
    imported before an entry is looked up.
    """

    def __init__(
        self,
        places: Mapping[str, str],
        make: Callable[[Any], Entry] = lambda attribute: attribute,
    ) -> None:
        """Register ``places``.

        Args:
            places: {name: "module:attribute"}.
            make: makes an entry of the attribute, such as an instance of a class; by default the
                attribute is the entry.
        """
        self._places = dict(places)
        self._make = make

    def __getitem__(self, name: str) -> Entry:
        return self._make(pkgutil.resolve_name(self._places[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
