"""Moves weights out of a graph into a data file beside it, which several graphs can share; and
finds the files that a graph as written needs."""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

INLINE_LIMIT = 1 << 20  # bytes; a graph with less weights than this stays one file
_SMALLEST = 1024  # bytes; smaller tensors stay inside, where shape inference can read them
_PAGE = 4096  # offsets are multiples of this, so that each weight can be memory-mapped


class WeightsFile:
    """A data file that stores equal tensors once, whichever graph brings them; ``beside`` it
    another may have them."""

    def __init__(self, path: Path, beside: "WeightsFile | None" = None) -> None:
        self.path = path
        self.beside = beside
        self._offsets: dict[bytes, int] = {}

    def store(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        """Append ``tensor`` unless its bytes are there already, and return it as a reference into
        the file."""
        array = np.ascontiguousarray(tensor.numpy())
        digest = (
            hashlib.sha256(array.data).digest()
            if array.ndim
            else hashlib.sha256(array.tobytes()).digest()
        )
        file = self.beside if self.beside is not None and digest in self.beside._offsets else self
        if digest not in file._offsets:
            file._offsets[digest] = self._append(array)
        return ir.ExternalTensor(
            file.path.name,
            file._offsets[digest],
            array.nbytes,
            tensor.dtype,
            shape=ir.Shape(list(tensor.shape)),
            name=name,
            base_dir=file.path.parent,
        )

    def _append(self, array: np.ndarray) -> int:
        with self.path.open("ab") as stream:
            offset = -(-stream.tell() // _PAGE) * _PAGE
            stream.write(b"\0" * (offset - stream.tell()))
            stream.write(array.data)
        return offset


class ExternalWeights(ir.passes.InPlacePass):
    """Move a graph's weights into ``file``, where they outgrow `INLINE_LIMIT` together; one tensor
    in memory at a time.

    Afterwards the graph holds references only: the module it was traced from can be freed.
    """

    def __init__(self, file: WeightsFile) -> None:
        self.file = file

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Write and refer."""
        weights = [
            value for value in model.graph.initializers.values() if value.const_value is not None
        ]
        if (
            sum(value.const_value.nbytes for value in weights if value.const_value is not None)
            <= INLINE_LIMIT
        ):
            return ir.passes.PassResult(model, modified=False)
        for value in weights:
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes >= _SMALLEST:
                value.const_value = self.file.store(tensor, str(value.name))
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """What stays inside the graph is small."""
        inside = sum(
            value.const_value.nbytes
            for value in model.graph.initializers.values()
            if value.const_value is not None
            and not isinstance(value.const_value, ir.ExternalTensor)
        )
        if inside > INLINE_LIMIT:
            raise ir.passes.PostconditionError(
                f"{inside} bytes of weights are still inside the graph"
            )


def weights_files(graph: Path) -> tuple[str, ...]:
    """Return the names of the files, beside it, that a graph on disk has weights in. There are none
    if it holds them all itself, as graphs in ORT format do.

    Of a tied table that is the decoder's file, and of a further budget the first one's.
    """
    if graph.suffix != ".onnx":
        return ()
    weights = (
        value.const_value
        for nested in ir.load(graph).graphs()
        for value in nested.initializers.values()
    )
    return tuple(
        sorted({str(each.location) for each in weights if isinstance(each, ir.ExternalTensor)})
    )
