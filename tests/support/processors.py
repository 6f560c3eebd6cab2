"""transformers' own processors of families whose class also wants a video processor, which needs
packages that the tests go without."""

from pathlib import Path

from transformers import ProcessorMixin

from compare_peers.programs import processors
from pocketvlm_export.quiet import quiet_transformers


def processor_of(folder: Path | str) -> ProcessorMixin:
    """The processor that ``folder``'s files name, for pictures and texts only, see
    `compare_peers.programs.processors`; what transformers says while it loads is not printed."""
    with quiet_transformers():
        return processors.processor_of(folder)
