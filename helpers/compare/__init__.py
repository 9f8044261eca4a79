"""Do two runs agree, and where do they part: parity, recordings, the search for the first difference.

Parity and fingerprints work without mmdet. Not here: how a graph is run or cut (``graph``), and detections compared for
a choice of FP32 nodes (``half_precision``).

Uses ``detector``, ``export``, ``graph``.
"""
