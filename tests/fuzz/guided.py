"""Inputs that atheris chooses by what they reach: ``python -m fuzz.guided MODULE CORPUS SECONDS``.

atheris changes bytes; a target draws its random numbers from them. So what is learnt are choices:
which file, which change, where. A fault ends the run; its bytes are kept beside the corpus, and
``--again FILE`` in the place of the seconds does them once more.

Apache-2.0, https://github.com/google/atheris; not installed with the tests.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris (Linux and macOS)")

_OURS = ["pocketvlm", "pocketvlm_export", "pocketvlm_measure", "pocketvlm_targets"]
with atheris.instrument_imports(include=_OURS):
    from fuzz.worker import Session
_LONGEST = 4096  # bytes of an input; few, so that the corpus stays small


class Choices(Random):
    """Random numbers out of bytes; where these end, out of a generator that they seed."""

    def __init__(self, content: bytes) -> None:
        super().__init__(int.from_bytes(content[:32], "little"))
        self._left = content

    def random(self) -> float:
        return self.getrandbits(24) / (1 << 24)

    def getrandbits(self, bits: int) -> int:
        size = -(-bits // 8)
        if len(self._left) < size:
            return super().getrandbits(bits)
        taken, self._left = self._left[:size], self._left[size:]
        return int.from_bytes(taken, "little") >> (8 * size - bits)


def main() -> None:
    module, corpus, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    with atheris.instrument_imports(include=[*_OURS, module]):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="pocketvlm-fuzz-") as folder:
        session = Session(module, Path(folder))

        def attempt(content: bytes) -> None:
            random = Choices(content)
            outcome, seconds, taken, words = session.attempt(random.getrandbits(12), random)
            if outcome not in ("accepted", "refused"):
                raise RuntimeError(f"{outcome} in {seconds} s, {taken} MB: {words}")

        if rest[0] == "--again":
            attempt(Path(rest[1]).read_bytes())
            return
        arguments = [
            f"-max_total_time={rest[0]}",
            f"-max_len={_LONGEST}",
            f"-artifact_prefix={corpus.parent / corpus.name}-",
            "-timeout=10",
            "-rss_limit_mb=4000",
            "-len_control=0",
        ]
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
