"""What one carries away: a folder that detects without mmdet, files for servers, where the time of a graph goes.

Uses ``detector``, ``graph``, ``export`` and ``tensorrt``. ``client.py`` is copied into every folder: it uses nothing of
the course there.
"""
