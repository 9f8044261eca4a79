"""A detector to an ONNX file: what can be exported, how, and by which rules.

Uses ``detector`` and ``graph``, and the patches. Needs mmdet.
"""
