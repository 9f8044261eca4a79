"""Do two runs agree, and where do they part: parity, recordings, the search for the first difference.

Uses ``detector``, ``export`` and ``graph``; parity and fingerprints work without mmdet.
"""
