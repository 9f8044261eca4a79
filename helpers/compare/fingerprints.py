"""Short summaries of tensors that tell whether two tensors hold the same numbers, in whatever order and shape.

Runtimes lay tensors out differently (a permute before or after, a dimension of one more or less), so tensors are
compared as bags of numbers. The distance is the 1-Wasserstein distance of the two bags, the mean difference after
sorting, relative to their root mean square: rounding noise moves it by its own size, one wrong box among a thousand by
ten times that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["TOLERANCE", "Fingerprint", "distance", "fingerprint", "fingerprint_of_tensor", "without_padding"]

# Above this many elements only moments are kept: sorting would take longer than running the network.
_SORTED_UP_TO = 1 << 16
#: The largest distance of tensors that are the same up to float32 rounding in another order of summation. Measured on
#: the embedded model's architecture with random weights: corresponding tensors stay near 3e-6, a tenth of it.
TOLERANCE = 3e-5


@dataclass(frozen=True)
class Fingerprint:
    """size: number of elements. moments: mean, mean absolute value, root mean square, minimum, maximum, and the share
    of values that are not finite (the others are computed over the finite ones). ordered: all values sorted, for small
    tensors, else None. integral: whether the tensor's type is an integer or Boolean one.
    """

    size: int
    moments: npt.NDArray[np.float64]
    ordered: npt.NDArray[np.float32] | None
    integral: bool = False

    @property
    def scale(self) -> float:
        """Root mean square: what differences are measured against."""
        return float(self.moments[2])

    @property
    def is_flat(self) -> bool:
        """Whether all values are equal, so that a match says little."""
        return bool(self.moments[3] == self.moments[4])


def fingerprint_of_tensor(tensor: torch.Tensor) -> Fingerprint:
    """The fingerprint of a tensor of any shape and type; complex tensors are not supported."""
    tensor = tensor.detach()
    size = tensor.numel()
    # An expanded tensor repeats its values without holding them; the moments of one copy are those of all.
    if size > _SORTED_UP_TO:
        for axis, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[axis] > 1:
                tensor = tensor.narrow(axis, 0, 1)
    flat = tensor.reshape(-1).to("cpu")
    integral = not flat.is_floating_point()
    if not flat.is_floating_point():
        # float32 holds integers up to 2**24 exactly; larger ones (indices into 100 masks) fit float64.
        flat = flat.to(torch.float32 if flat.dtype == torch.bool else torch.float64)
    count = flat.numel()
    if count == 0:
        return Fingerprint(size, np.zeros(6), np.zeros(0, np.float32), integral)
    low, high = (float(value) for value in torch.aminmax(flat))
    bad = 0.0
    if not np.isfinite(low) or not np.isfinite(high):
        finite = torch.isfinite(flat)
        bad = 1 - float(finite.double().mean())
        flat = flat[finite]
        low, high = (float(value) for value in torch.aminmax(flat)) if flat.numel() else (0.0, 0.0)
    ordered = flat.sort().values.numpy().astype(np.float32) if size <= _SORTED_UP_TO else None
    number = max(flat.numel(), 1)
    # In float32 the norms of ten million numbers are off by a thousandth; in double precision a copy of all is too big.
    sums = torch.zeros(3, dtype=torch.float64)
    for part in flat.split(1 << 20):
        block = part.double()
        sums += torch.stack([block.sum(), block.abs().sum(), block.dot(block)])
    mean, mean_absolute, mean_square = (float(value) / number for value in sums)
    moments = (
        mean,
        mean_absolute,
        mean_square**0.5,
        low,
        high,
        bad,
    )
    return Fingerprint(size, np.array(moments), ordered, integral)


def fingerprint(array: npt.NDArray[np.generic]) -> Fingerprint:
    """The fingerprint of an array of any shape and numeric type."""
    return fingerprint_of_tensor(torch.from_numpy(np.ascontiguousarray(array)))


def distance(first: Fingerprint, second: Fingerprint) -> float:
    """How far apart two bags of numbers are, relative to their scale; infinite for different sizes.

    Large tensors are compared by mean, mean absolute value and root mean square, which changes in a small part of the
    tensor move less than they move the true distance.
    """
    if first.size != second.size or abs(first.moments[5] - second.moments[5]) > 0.5 / max(first.size, 1):
        return float("inf")
    scale = max(first.scale, second.scale)
    if scale == 0:
        return 0.0
    if first.ordered is not None and second.ordered is not None:
        if len(first.ordered) != len(second.ordered):
            return float("inf")
        return float(np.abs(first.ordered.astype(np.float64) - second.ordered).mean()) / scale
    return float(np.abs(first.moments[:3] - second.moments[:3]).max()) / scale


def without_padding(padded: Fingerprint, size: int) -> Fingerprint | None:
    """The fingerprint without as many zeros as leave ``size`` values; None if it has not so many, or is not ordered.

    An exported graph fills a list that has a variable length with rows of zeros up to a fixed one.
    """
    if padded.ordered is None or size >= padded.size:
        return None
    zeros = np.flatnonzero(padded.ordered == 0)
    surplus = padded.size - size
    if len(zeros) < surplus:
        return None
    return fingerprint(np.delete(padded.ordered, zeros[:surplus]))
