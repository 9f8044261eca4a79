"""The arithmetic of the plugins as compiled libraries, called with numpy arrays, and the bounds they keep.

Uses the ground floor only.
"""
