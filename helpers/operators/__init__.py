"""The arithmetic of the plugins as compiled libraries, called with numpy arrays, and the bounds they keep.

Not here: the sources (``plugins``, beside ``helpers``), and their use in an engine (``tensorrt``).

Uses no other folder.
"""
