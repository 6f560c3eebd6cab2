"""PocketVLM's exporter: turns a Hugging Face checkpoint into an artifact; runs at build time, not
on the device."""

from typing import TYPE_CHECKING, Any

from pocketvlm_export.options import ExportOptions

if TYPE_CHECKING:
    from pocketvlm_export.pipeline import ExportReport, export

__all__ = ["ExportOptions", "ExportReport", "export"]


if not TYPE_CHECKING:  # to a type checker every other name would be there too, as Any

    def __getattr__(name: str) -> Any:
        """Import torch only once something is exported: the command line must answer ``--help``
        without it."""
        if name in {"ExportReport", "export"}:
            from pocketvlm_export import pipeline

            return getattr(pipeline, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
