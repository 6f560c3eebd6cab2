"""Writes docs/api.md: every public name with its docstring, its fields and its examples."""

from api_page.names import CHAPTERS, Chapter

__all__ = ["CHAPTERS", "Chapter"]
