"""Knows the notices of the libraries behind an export, and keeps them off the terminal."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from pocketvlm_export import upstream


@contextmanager
def quiet(
    *loggers: str,
    level: int = logging.ERROR,
    warning_messages: str | None = None,
    warning_types: Sequence[type[Warning]] = (),
    printed: bool = False,
    logging_setup: bool = False,
) -> Iterator[None]:
    """Silence notices that no one can act on; everything is restored on the way out.

    Args:
        loggers: names of loggers that report nothing below ``level`` meanwhile.
        level: of `logging`; a logger that is stricter already stays so.
        warning_messages: regular expression of `UserWarning` messages that are ignored.
        warning_types: classes of warnings that are ignored whatever their message.
        printed: whether what is printed to stdout is dropped.
        logging_setup: whether libraries are kept from setting up logging for the whole process, as
            some do at import: `logging.basicConfig` does nothing while the root logger has a
            handler.
    """
    with ExitStack() as stack:
        for name in loggers:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(max(logger.level, level))
        if warning_messages is not None or warning_types:
            stack.enter_context(warnings.catch_warnings())
        if warning_messages is not None:
            warnings.filterwarnings("ignore", message=warning_messages, category=UserWarning)
        for category in warning_types:
            warnings.simplefilter("ignore", category)
        if logging_setup:
            root, handler = logging.getLogger(), logging.NullHandler()
            root.addHandler(handler)
            stack.callback(root.removeHandler, handler)
        if printed:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No notices and no progress bars of transformers."""
    from transformers.utils import logging as log

    bars = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        with quiet(log.get_logger().name):
            yield
    finally:
        if bars:
            log.enable_progress_bar()


def quiet_tracer() -> AbstractContextManager[None]:
    """No notices of torch's exporter: absent torchvision operators, axis names used twice."""
    return quiet(
        upstream.TRACER_LOGGER,
        warning_messages=".*axis name.*",
        warning_types=(FutureWarning, DeprecationWarning),
    )


def quiet_ort_tools() -> AbstractContextManager[None]:
    """Nothing of what ONNX Runtime's tools print, and no logging set up by their import."""
    return quiet(printed=True, logging_setup=True)


def quiet_gguf() -> AbstractContextManager[None]:
    """No notices of gguf about tokenizers."""
    return quiet("gguf")
