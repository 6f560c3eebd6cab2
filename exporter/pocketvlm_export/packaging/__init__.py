"""Everything about an artifact that is not a graph: side files, manifest, checksums, model card,
what may be replaced."""

from pocketvlm_export.packaging.appraisal import check_device_settings
from pocketvlm_export.packaging.card import write_card
from pocketvlm_export.packaging.destination import (
    check_destination,
    check_keep_failed,
    check_space,
    replaceable,
)
from pocketvlm_export.packaging.manifest import (
    UNCHECKED,
    eos_token_ids,
    make_manifest,
    seal,
    write_manifest,
)
from pocketvlm_export.packaging.rejected import keep
from pocketvlm_export.packaging.sidecars import pictures_config, write_sidecars
from pocketvlm_export.packaging.using import write_using

__all__ = [
    "UNCHECKED",
    "check_destination",
    "check_device_settings",
    "check_keep_failed",
    "check_space",
    "eos_token_ids",
    "keep",
    "make_manifest",
    "pictures_config",
    "replaceable",
    "seal",
    "write_card",
    "write_manifest",
    "write_sidecars",
    "write_using",
]
