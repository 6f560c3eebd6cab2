"""The tables of docs/measured.md: everything that was measured goes into docs/data/NAME.json, and
what a reader needs of it onto the page."""

from measured_page.tables import Section, parsed
from measured_page.views import VIEWS, View, shown

__all__ = ["VIEWS", "Section", "View", "parsed", "shown"]
