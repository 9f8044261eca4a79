"""An exported file as data: reading, origins, one index, cutting, running in ONNX Runtime, views.

Works without mmdet and mmcv, for any ONNX file. Of ``detector`` it uses what holds data only.
"""
