"""What half precision means in this course, in one place, for the simulation, the plans and the PyTorch interpreter."""

from __future__ import annotations

from onnx import TensorProto

from helpers.operators.limits import FAR_ROI

__all__ = ["FAR_ROI", "FORMATS", "FP32_ONLY", "LARGEST", "SMALLEST_NORMAL", "SMALLEST_SUBNORMAL"]

#: The rounding formats by name.
FORMATS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
#: Operators whose float inputs ONNX allows in float32 alone: they read an island's results as they are.
FP32_ONLY = frozenset({"NonMaxSuppression"})
#: Half precision's largest finite, smallest normal and smallest subnormal number (IEEE 754-2008, binary16).
LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
SMALLEST_SUBNORMAL = 2.0**-24
