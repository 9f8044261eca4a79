"""TensorRT: which operators it has, graphs for its plugins, building and running engines, the RTX parser.

Uses ``graph``, ``operators`` and ``half_precision``. Importing it needs no TensorRT. (Inside, ``import tensorrt`` is
NVIDIA's package: imports are absolute.)
"""
