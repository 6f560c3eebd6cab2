"""Knows the process that exports, apart from the one that measures: torch is loaded once in it, and
gone before anything is timed."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pocketvlm.errors import EngineError, PocketVLMError
from pocketvlm.files.spawning import spawn_context
from pocketvlm_measure.evaluation.engines.local import end_with_parent


class ExporterProcess:
    """A process that exports: begun when it is first called, and again after `close`.

    An interrupt reaches it too, and leaves nothing half-written.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function of a module there, and return its result.

        Raises:
            EngineError: the process was ended from outside.
            PocketVLMError: what the function raises.
        """
        if self._pool is None:
            # Spawned, not forked: engines hold threads that a fork would cut off.
            context = spawn_context()
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            self.close()
            raise EngineError(
                "the process that exports was ended from outside, perhaps because memory ran out",
                advice="run it again: what was exported is kept",
            ) from error
        except PocketVLMError:
            raise  # its own refusal: it continues
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, so that it takes nothing of what is measured next."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _begin() -> None:
    """Interrupts as in any program, and no life beyond the parent's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
