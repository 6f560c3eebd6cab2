"""Knows where an artifact keeps what no picture changes: vectors that layouts put between the
features of pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError


def read_constants(artifact: Artifact) -> dict[str, npt.NDArray[np.float32]]:
    """The constants of an artifact by name, float32 of the shapes that its manifest states.

    Raises:
        ArtifactError: a file that cannot be read, or that holds other than finite numbers.
    """
    constants = {}
    for name, constant in artifact.manifest.vision.constants.items():
        path = artifact.path(constant.file)
        try:
            values = np.frombuffer(path.read_bytes(), dtype="<f4")
        except (OSError, ValueError) as error:  # ValueError: of another size by now
            raise ArtifactError(
                f"{path} cannot be read ({error})", advice="copy it again"
            ) from error
        if values.size != np.prod(constant.shape) or not np.isfinite(values).all():
            raise ArtifactError(
                f"{path} does not hold {name}",
                expected=f"finite float32 numbers of shape {constant.shape}",
                advice="export the artifact again",
            )
        constants[name] = values.astype(np.float32).reshape(constant.shape)
    return constants
