"""A detector to an ONNX file: what can be exported, how, and by which rules.

Needs mmdet. Not here: the changes to mmdet that make it right (``patches``, beside ``helpers``), and whatever starts
from the file (``graph``).

Uses ``detector``, ``graph``.
"""
