"""Short summaries of tensors that tell whether two tensors hold the same numbers in the same order.

A tensor x of N numbers, flattened, is projected on two fixed vectors of pseudo-random normal numbers:

    p_k = sum_i x_i r_k(i) / sqrt(N),    r_k(i) = a_k(i mod B) b_k(i div B),    k = 1, 2,    B = 65536

The difference p_k(x) - p_k(y) is the root mean square of x - y times a number of variance 1 (random projections keep
distances: Johnson and Lindenstrauss 1984; the product needs B + N / B random numbers instead of N). So two tensors are
as far apart as their projections, whatever differs: one number, all of them, or only their order, as of two swapped
channels. Because x is flattened first, axes of length 1 and reshapes change nothing. A transposition does; PyTorch's
are recorded as tensors of their own (:mod:`helpers.compare.recording`).

Where rows were sorted by a score, two runtimes may order almost equal scores differently, and then every later tensor
has some rows swapped. Therefore each row is projected too, the rows along the first axis longer than 1, and along the
last. :func:`same_rows` compares them as a bag, and asks how far they moved: neighbours may change places, blocks may
not.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["TOLERANCE", "Fingerprint", "distance", "fingerprint", "fingerprint_of_tensor", "is_run", "same_rows"]

#: The largest distance of tensors that are the same up to float32 rounding in another order of summation.
TOLERANCE = 1e-4
# How far rows may move, on average, as a share of their number: near-equal scores change places with their neighbours.
_ROWS_MOVE = 0.02
# How far each may where that is asked for, as a share or in places.
_ROW_MOVES, _PLACES = 0.1, 8
_BLOCK = 1 << 16
# Rows along the last axis need a second look at all numbers; lists that are sorted along it are short.
_LAST_AXIS_UP_TO = 1 << 18

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fingerprint:
    """size: number of elements. scale: root mean square of the finite ones, what differences are measured against.
    bad: how many are not finite. sums: the two projections of the flattened tensor, the others being 0. rows: the
    projections of the rows along the first, and for tensors of up to 262,144 elements along the last, axis longer
    than 1; empty where there are more than 65,536. integral: whether the tensor's type is an integer or Boolean one.
    alike: whether all its numbers are equal, so that being the same as another tensor says little.
    """

    size: int
    scale: float
    bad: int
    sums: tuple[float, float]
    rows: tuple[Rows, ...]
    integral: bool = False
    alike: bool = False

    @property
    def width(self) -> int:
        """Numbers in a row along the first axis longer than 1; 0 if there are no such rows."""
        return self.size // len(self.rows[0]) if self.rows else 0


@functools.cache
def _normal(length: int, seed: int) -> torch.Tensor:
    """(2, length) fixed normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, length), np.float32))


def _project(rows: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th projection of each of n rows of up to 2**30 numbers, (n,), not divided by the root of their number. A
    product with each of two vectors takes a third to a seventh of the time of one with a matrix of two columns (one
    thread, MKL 2024.2, 61 thousand to 1.5 million numbers).
    """
    inner, outer = _normal(_BLOCK, 1)[k], _normal(1 << 14, 2)[k]
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for block, part in enumerate(rows.split(_BLOCK, dim=1)):
        sums += (part @ inner[: part.shape[1]]).double() * outer[block]
    return sums


def _projections(flat: torch.Tensor) -> tuple[float, float]:
    """Both projections of all numbers."""
    return float(_project(flat[None], 0)), float(_project(flat[None], 1))


def fingerprint_of_tensor(tensor: torch.Tensor) -> Fingerprint:
    """The fingerprint of a tensor of any shape and type; complex tensors are not supported."""
    size = tensor.numel()
    integral = not tensor.is_floating_point()
    flat = tensor.detach().reshape(-1).to("cpu", torch.float32)
    if size == 0:
        return Fingerprint(0, 0.0, 0, (0.0, 0.0), (), integral, alike=True)
    bad = 0
    sums = _projections(flat)
    if not all(math.isfinite(one) for one in sums):
        bad = size - int(torch.isfinite(flat).sum())
        flat = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
        sums = _projections(flat)
    shape = [n for n in tensor.shape if n > 1]
    rows = []
    if shape and shape[0] <= _BLOCK:
        rows.append(_project(flat.view(shape[0], -1), 0))
    if len(shape) > 1 and size <= _LAST_AXIS_UP_TO and shape[-1] <= _BLOCK:
        rows.append(_project(flat.view(-1, shape[-1]).T, 0))
    norm = float(torch.linalg.vector_norm(flat))
    if not math.isfinite(norm):
        # What was not a number and became a whole one is -2**63, whose square no float32 holds. This copies the tensor.
        norm = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
    return Fingerprint(
        size=size,
        scale=norm / size**0.5,
        bad=bad,
        sums=(sums[0] / size**0.5, sums[1] / size**0.5),
        rows=tuple(row.float().numpy() for row in rows),
        integral=integral,
        alike=bool((flat[:256] == flat[0]).all()) and bool((flat == flat[0]).all()),
    )


def fingerprint(array: npt.NDArray[Any]) -> Fingerprint:
    """The fingerprint of an array of any shape and numeric type."""
    return fingerprint_of_tensor(torch.from_numpy(np.ascontiguousarray(array)))


def distance(first: Fingerprint, second: Fingerprint) -> float:
    """How far apart two tensors are, number by number in their order, relative to their scale: the root mean square of
    the difference up to a random factor near 1. Infinite for different sizes, or numbers of values that are not finite.

    For whole numbers and Booleans, which differ in steps, at least the share of values that differ, of those of
    Booleans that are set.
    """
    if (first.size, first.bad) != (second.size, second.bad):
        return float("inf")
    scale = max(first.scale, second.scale)
    apart = [abs(a - b) for a, b in zip(first.sums, second.sums, strict=True)]
    if first.integral and second.integral:
        # The mean square: whole numbers that differ do so by 1 at least.
        return sum(one**2 for one in apart) / 2 / min(scale, 1) ** 2 if scale else 0.0
    return max(apart) / scale if scale else 0.0


def same_rows(first: Rows, second: Rows, *, anywhere: bool = False, nearby: bool = False) -> bool:
    """Whether two lists have the same rows, of which neighbours may have changed places, or all if ``anywhere``; if
    ``nearby``, none may have gone far, as two swapped channels do. Where rows of zeros lie follows from the others:
    of a mask, only what is set may not have moved. Rows are those of fingerprints.
    """
    if len(first) != len(second):
        return False
    count = max(len(first), 1)
    first, second = first.astype(np.float64), second.astype(np.float64)
    most = TOLERANCE * float(max(np.linalg.norm(first), np.linalg.norm(second))) / count**0.5
    # The means of two lists are never further apart than the lists, and quickly compared.
    if abs(float(first.sum() - second.sum())) > most * count:
        return False
    places = [np.argsort(rows, kind="stable") for rows in (first, second)]
    apart = first[places[0]] - second[places[1]]
    if float(np.linalg.norm(apart)) / count**0.5 > most:
        return False
    moved = np.abs(places[0] - places[1])
    if nearby and moved.max(initial=0) > max(_PLACES, _ROW_MOVES * count):
        return False
    # One row of zeros is as good as another, and a thousand that did not move must not hide ten others that did.
    moved = moved[(first[places[0]] != 0) | (second[places[1]] != 0)]
    return anywhere or float(moved.sum()) <= _ROWS_MOVE * count * len(moved)


def is_run(part: Rows, whole: Rows) -> bool:
    """Whether a list is, in whatever order, a run of another's rows: one pyramid level, sorted, among all levels."""
    length = len(part)
    largest = part[np.abs(part).argmax()]
    if not (np.abs(whole - largest) <= 10 * TOLERANCE * abs(largest)).any():
        return False
    places = np.arange(max(len(whole) - length + 1, 0))
    # A run has the sum and the sum of squares of its rows; few other places have.
    for power in (1, 2):
        total = np.concatenate([[0.0], np.cumsum(whole.astype(np.float64) ** power)])
        own = part.astype(np.float64) ** power
        near = TOLERANCE * power * float(np.sqrt(np.mean(own**2))) * length
        places = places[np.abs(total[places + length] - total[places] - own.sum()) <= near]
    # A list of few different numbers is like many of its runs, and the first is as good as any.
    return any(same_rows(part, whole[place : place + length], anywhere=True) for place in places[:16])
