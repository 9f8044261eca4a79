"""An exported file as data: reading, origins, one index, cutting, running in ONNX Runtime, views.

Works without mmdet and mmcv, for any ONNX file. Uses ``operators``, and of ``detector`` what holds data.
"""
