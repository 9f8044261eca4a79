"""What half precision does to a graph, and what to do about it: ranges, simulation, hunt, plans, agreement.

Works without mmdet and mmcv. Uses ``graph``, and of ``compare`` the parity.
"""
