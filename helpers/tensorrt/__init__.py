"""TensorRT: which operators it has, graphs for its plugins, building and running engines, the RTX parser.

Importing it needs no TensorRT. (Inside, ``import tensorrt`` is NVIDIA's package: imports are absolute.) Not here: the
plugins' sources (``plugins``), and the choice of what stays in FP32 (``half_precision``).

Uses ``graph``, ``half_precision``, ``operators``, and what holds data of ``detector``.
"""
