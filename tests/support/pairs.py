"""A tiny artifact that states a pair of decoders."""

from pathlib import Path

from support.tiny_artifact import read_manifest, write_manifest

PAIR = "int8+fp32"


def make_pair(root: Path) -> Path:
    """Give an artifact's decoder graph a second name, the first of a pair; returns ``root``."""
    data = read_manifest(root)
    decoder = data["decoder"]
    decoder["graphs"]["int8"] = decoder["graphs"]["fp32"]
    decoder["tables"]["int8"] = "fp32"
    decoder["pair"] = PAIR
    write_manifest(root, data)
    return root
