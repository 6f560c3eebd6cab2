"""Fixtures of the runtime's tests: tiny artifacts, and a checksum cache that is nobody's own."""

from support import without_deadlines  # noqa: F401 - for `make test-oldest`, which begins here
from support.fixtures import artifact_dir, checksum_cache, picture, vlm

__all__ = ["artifact_dir", "checksum_cache", "picture", "vlm"]
