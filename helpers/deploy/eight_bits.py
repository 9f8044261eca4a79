"""A graph whose convolutions and matrix products compute in 8 bits, by ONNX Runtime's static quantisation.

The result is in the QDQ form: float tensors, with pairs of QuantizeLinear and DequantizeLinear around the nodes that
are to compute in 8 bits, which a runtime with such kernels fuses away. Weights are quantised for each channel of the
result; activations by the least and the largest value that calibration pictures give. Which parts of a detector bear
it is a question for AP (``scripts/measure_eight_bits.py``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from helpers import artifacts
from helpers.deploy.profile import PARTS, part
from helpers.detector.preprocess import NetworkInput
from helpers.errors import CourseError
from helpers.graph.detect import feeds
from helpers.graph.file import load_onnx
from helpers.graph.origins import origin

__all__ = ["OPERATORS", "TRUNK", "QuantisationError", "candidates", "quantise"]

#: The operators that are quantised.
OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: The parts that see the whole picture.
TRUNK = ("backbone", "neck", "RPN's convolutions")


class QuantisationError(CourseError):
    """There is nothing to quantise, or nothing to calibrate with."""


class _Pictures(CalibrationDataReader):
    """Calibration asks for the feeds of one picture after another, and for None at the end."""

    def __init__(self, model: onnx.ModelProto, pictures: Sequence[NetworkInput]) -> None:
        self.names = {value.name for value in model.graph.input}
        self.waiting = iter(pictures)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        picture = next(self.waiting, None)
        if picture is None:
            return None
        return {name: array for name, array in feeds([picture]).items() if name in self.names}


def candidates(model: onnx.ModelProto, parts: Collection[str] = PARTS) -> list[str]:
    """The names of the nodes of :data:`OPERATORS` in some parts of the detector."""
    return [node.name for node in model.graph.node if node.op_type in OPERATORS and part(origin(node)) in parts]


def quantise(
    model: Path,
    path: Path,
    pictures: Sequence[NetworkInput],
    *,
    parts: Collection[str] = PARTS,
    symmetric: bool = True,
    ranges: Path | None = None,
) -> list[str]:
    """Write ``model`` with the nodes of some ``parts`` in 8 bits to ``path``, whole or not at all; returns their names.

    pictures: prepared for the graph; their activations set the ranges. symmetric: activations as signed numbers around
    0, the only form that TensorRT reads; False uses the unsigned range from the least to the largest value, which in
    ONNX Runtime on x86 was the faster one (evidence/eight_bits_emoji.json). ranges: a file in which the ranges are
    kept, so that further calls need no run; use one for one graph and one set of pictures.

    Raises:
        QuantisationError: no node is left to quantise, or no picture to calibrate with.
        helpers.graph.file.OnnxFileError: the model cannot be read.
    """
    graph = load_onnx(model)
    chosen = candidates(graph, parts)
    if not chosen:
        raise QuantisationError(f"there is nothing to quantise in {', '.join(parts) or 'no part'}", "name other parts")
    if not pictures and not (ranges and ranges.is_file()):
        raise QuantisationError("0 pictures calibrate nothing", "give a few like those that are to come")
    with artifacts.whole_file(Path(path)) as temporary, _quiet():
        quantize_static(
            graph,
            temporary,
            _Pictures(graph, pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # All of them are calibrated, so that kept ranges serve every choice.
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=chosen,
            calibration_cache_path=ranges,
            # A bias of 32-bit integers, ONNX Runtime's default, is refused by TensorRT's parser.
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
        )
    return chosen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that is logged at every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
