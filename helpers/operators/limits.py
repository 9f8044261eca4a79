"""Bounds that every implementation of an operator keeps to, on whatever device."""

from __future__ import annotations

__all__ = ["FAR_ROI"]

#: px: coordinates that no RoI of a network's input has. Its samples (adaptive sampling) would not fit the memory.
FAR_ROI = 8192.0
