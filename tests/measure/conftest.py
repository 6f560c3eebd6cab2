"""Fixtures of the tests of what measures: those of the runtime's."""

from support.fixtures import artifact_dir, checksum_cache, picture, vlm

__all__ = ["artifact_dir", "checksum_cache", "picture", "vlm"]
