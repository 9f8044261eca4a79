"""An exported file as data: reading, origins, one index, cutting, running in ONNX Runtime, views.

Works without mmdet and mmcv, for any ONNX file. Not here: how a file is made (``export``), and the other runtimes
(``tensorrt``, ``half_precision.torch_graph``).

Uses ``operators``, and what holds data of ``detector``.
"""
