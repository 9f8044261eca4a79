"""What half precision does to a graph, and what to do about it: ranges, simulation, hunt, plans, agreement.

Works without mmdet and mmcv. Not here: the patches that make FP32 nodes needless (``patches``), and the flags by which
an engine is told (``tensorrt``).

Uses ``graph``, ``operators``, what holds data of ``detector``, and the parity of ``compare``.
"""
