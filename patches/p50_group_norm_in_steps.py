"""Group norm is exported as means of means, which lose nothing, and not as one sum over a whole group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from patches._base import Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def forward(self: Any, features: Tensor) -> Tensor:
    """``nn.GroupNorm.forward`` of (N, C, ...): each group less its mean, over its deviation; then weight and bias.

    A mean is taken along the rows, then over them: sums of a few hundred numbers each. The Reshape between keeps
    onnxsim from making one ReduceMean of both.
    """
    import torch

    channels, *sides = (int(size) for size in features.shape[1:])
    groups = features.reshape(-1, self.num_groups, channels // self.num_groups, *sides)
    rows = math.prod((channels // self.num_groups, *sides)[:-1])

    def mean(values: Tensor) -> Tensor:
        found = values.mean(-1).reshape(-1, self.num_groups, rows).mean(2)
        return found.reshape(-1, self.num_groups, *[1] * (1 + len(sides)))

    centred = groups - mean(groups)
    # Divided by something of their size first: half precision holds the squares of numbers up to 255 only.
    scale = mean(centred.abs()) + self.eps**0.5
    centred, least = centred / scale, self.eps**0.5 / scale
    normal = (centred / torch.sqrt(mean(centred * centred) + least * least)).reshape(-1, channels, *sides)
    if self.weight is None:
        return normal
    weight, bias = (one.reshape(-1, *[1] * len(sides)) for one in (self.weight, self.bias))
    return normal * weight + bias


PATCH = Patch(
    __name__,
    summary="Group norm becomes a ReduceMean of rows and one over the rows instead of InstanceNormalization.",
    symptom=(
        "features of models with group norm are four to six times as far from their exact values as PyTorch's, and "
        "boxes and scores differ in the digits that follow"
    ),
    cause=(
        "torch exports group norm as InstanceNormalization of rows that hold a group each, tens of thousands of "
        "numbers. ONNX Runtime's kernel for a CPU adds such a row up in single precision, in a few running sums: its "
        "result is up to 2e-6 off, where PyTorch's, which adds up pieces, is 5e-8 off, and every norm passes it on."
    ),
    replacements=[Replacement("torch.nn.modules.normalization:GroupNorm.forward", new=forward)],
)
apply, revert = PATCH.apply, PATCH.revert
