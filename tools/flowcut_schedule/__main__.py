"""The stages with which FlowCut's mean numbers are exported: ``PYTHONPATH=tools python -m
flowcut_schedule CHECKPOINT ARTIFACT --keep K PICTURES``.

ARTIFACT is any export of CHECKPOINT: pictures are prepared as it prepares them.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from flowcut_schedule.schedule import flowcut_schedule
from pocketvlm.artifact import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.quiet import quiet_transformers

_FILE = click.Path(path_type=Path, exists=True)


@click.command(help=__doc__)
@click.argument("checkpoint")
@click.argument("artifact", type=_FILE)
@click.argument("pictures", type=_FILE, nargs=-1, required=True)
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Tokens left in the end.")
def main(checkpoint: str, artifact: Path, pictures: tuple[Path, ...], keep: int) -> None:
    """Print the flags of `pocketvlm export`."""
    layout = open_layout(Artifact.open(artifact))
    tiles = [layout.cut(open_picture(picture)).pixel_values for picture in pictures]
    with quiet_transformers():
        stages = flowcut_schedule(open_checkpoint(checkpoint), np.concatenate(tiles), keep)
    click.echo(" ".join(f"--tower-stage {stage}" for stage in stages))


if __name__ == "__main__":
    main()
