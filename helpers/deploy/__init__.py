"""What one carries away: a folder that detects without mmdet, many pictures by it, files for servers, and
where the time of a graph goes.

``client.py`` is copied into every folder: it uses nothing of the course there. Not here: the benchmarks that measure
what is deployed (``scripts``).

Uses ``compare``, ``detector``, ``export``, ``graph``, ``tensorrt``.
"""
