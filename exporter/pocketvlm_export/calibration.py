"""Knows how activations are calibrated: on which pictures, and how large each activation becomes
over them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from pocketvlm.errors import PictureError, RequestError
from pocketvlm.layouts import Layout
from pocketvlm.media.folders import pictures_in
from pocketvlm.media.pictures import open_picture
from pocketvlm.ort.sessions import ort_errors
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm_export.onnx_passes.static_int8 import Ranges, WatchRanges, activations, watched

LEAST_PICTURES = 8
MOST_PICTURES = 64
_SETTING = "calibration"
_ERRORS_ONLY = 3  # log severity


@dataclass(frozen=True)
class Calibration:
    """The pictures that ranges are taken from.

    Attributes:
        folder: where they lie.
        pictures: their files, in the order of their names.
        unreadable: names of those that would have been among them.
    """

    folder: Path
    pictures: tuple[Path, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """How many there are, a sentence."""
        return f"Activations are calibrated on {len(self.pictures)} pictures of {self.folder}."

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, by name."""
        if not self.unreadable:
            return ()
        more = ", ..." if len(self.unreadable) > 3 else ""
        names = ", ".join(self.unreadable[:3]) + more
        return (f"{len(self.unreadable)} pictures of {self.folder} cannot be read ({names})",)

    def batches(self, layout: Layout[Any]) -> Iterator[npt.NDArray[np.float32]]:
        """The pixels of each picture as the runtime cuts it: float32 (tiles, 3, height, width), a
        batch for each size of tiles."""
        for path in self.pictures:
            yield from layout.cut(open_picture(path)).batches


def choose_pictures(folder: Path, layout: Layout[Any] | None = None) -> Calibration:
    """Return up to `MOST_PICTURES` pictures of ``folder``, evenly spaced over the sorted names.

    Files are recognised by their suffix; each is opened once here, so that nothing broken is met
    later, nor anything that ``layout`` cannot cut.

    Raises:
        RequestError: there is no such folder, or it has fewer than `LEAST_PICTURES` that can be
            read.
    """
    try:
        files, _ = pictures_in(folder)
    except OSError as error:
        raise RequestError(
            f"calibration folder {folder} cannot be read ({error.strerror or error})",
            advice="give a folder with pictures like those that will be asked about",
            setting=_SETTING,
        ) from error
    count = min(len(files), MOST_PICTURES)
    chosen = [files[number * len(files) // count] for number in range(count)]
    broken: dict[str, PictureError] = {}
    for path in chosen:
        try:
            picture = open_picture(path)
            if layout is not None:
                layout.grid(picture.height, picture.width)
        except PictureError as error:
            broken[path.name] = error
    readable = tuple(path for path in chosen if path.name not in broken)
    if len(readable) < LEAST_PICTURES:
        first = next((f"; {error.reason}" for error in broken.values()), "")
        raise RequestError(
            f"calibration folder {folder} has {len(readable)} pictures that can be read{first}",
            expected=f"at least {LEAST_PICTURES}, files such as photo.jpg or photo.png",
            advice="add pictures like those that will be asked about",
            setting=_SETTING,
        )
    return Calibration(folder, readable, tuple(broken))


def measure_ranges(
    graph: Path,
    batches: Iterable[npt.NDArray[np.float32]],
    count: Callable[[int], None] = lambda _: None,
) -> Ranges:
    """Run a float32 vision graph on ``batches``, (B, 3, H, W) each, and return the least and the
    largest value of what each of its weights multiplies.

    The graph that is run lies beside it for so long, since it reads the same weights; they are
    mapped, not copied. ``onnxruntime.quantization`` has calibraters that do the same to whole
    models. They hold the weights twice, and ignore what its shape inference does not support, such
    as the results of fused attention.

    Args:
        graph: its file.
        batches: pixel_values.
        count: called with the number of each batch, from 1, before it is run.
    """
    model = ir.load(graph)
    names = list(activations(model.graph))
    WatchRanges()(model)
    path = graph.with_name(f"{graph.stem}.watched.onnx")
    try:
        ir.save(model, path)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.disable_prepacking", "1")
        ranges = dict.fromkeys(names, (0.0, 0.0))
        with ort_errors("the vision graph cannot be calibrated"):
            session = ort.InferenceSession(path, options, providers=[CPU_PROVIDER])
            outputs = [output for name in names for output in watched(name)]
            for number, pixel_values in enumerate(batches, 1):
                count(number)
                values = session.run(outputs, {"pixel_values": pixel_values})
                for name, low, high in zip(names, values[::2], values[1::2], strict=True):
                    least, largest = ranges[name]
                    ranges[name] = (min(least, float(low)), max(largest, float(high)))
    finally:
        path.unlink(missing_ok=True)
    return ranges
