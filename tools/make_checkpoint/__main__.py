"""Command line: ``PYTHONPATH=tools python -m make_checkpoint tiny-llama -o DIR``."""

import argparse
from pathlib import Path

from make_checkpoint.hub import HubPreset
from make_checkpoint.hub_presets import HUB_PRESETS
from make_checkpoint.output import new_folder
from make_checkpoint.presets import PRESETS, Preset
from make_checkpoint.weights import LAYOUTS
from make_checkpoint.write import make_checkpoint
from pocketvlm import PocketVLMError


def main() -> None:
    """Parse the arguments and write one checkpoint."""
    parser = argparse.ArgumentParser(prog="make_checkpoint", description=__doc__)
    presets: dict[str, Preset | HubPreset] = {**PRESETS, **HUB_PRESETS}
    parser.add_argument("preset", choices=sorted(presets))
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder to write; created when absent"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument(
        "--layout", choices=sorted(LAYOUTS), default="classic", help="how the weights are named"
    )
    parser.add_argument("--shard-mb", type=int, default=1000, help="largest weights file, in MB")
    parser.add_argument(
        "--decoder-layers", type=int, help="how many layers of the decoder; the preset's by default"
    )
    arguments = parser.parse_args()
    preset = presets[arguments.preset]
    if arguments.decoder_layers is not None:
        preset = preset.but(text={"num_hidden_layers": arguments.decoder_layers})
    try:
        with new_folder(arguments.output) as folder:
            make_checkpoint(
                preset,
                folder,
                seed=arguments.seed,
                dtype=arguments.dtype,
                layout=arguments.layout,
                shard_bytes=arguments.shard_mb * 10**6,
            )
    except PocketVLMError as error:
        parser.error(str(error))
    print(arguments.output)


if __name__ == "__main__":
    main()
