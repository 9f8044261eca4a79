"""Group norm is exported as means of means, which lose nothing, and not as one sum over a whole group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patches._base import Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def forward(self: Any, features: Tensor) -> Tensor:
    """``nn.GroupNorm.forward`` of (N, C, ...): each group less its mean, over its deviation; then weight and bias.

    A mean is taken along one axis after the other: sums of a few hundred numbers each.
    """
    import torch

    channels, *sides = (int(size) for size in features.shape[1:])
    groups = features.reshape(-1, self.num_groups, channels // self.num_groups, *sides)

    def mean(values: Tensor) -> Tensor:
        for axis in range(groups.dim() - 1, 1, -1):
            values = values.mean(axis, keepdim=True)
        return values

    centred = groups - mean(groups)
    normal = (centred / torch.sqrt(mean(centred * centred) + self.eps)).reshape(-1, channels, *sides)
    if self.weight is None:
        return normal
    weight, bias = (one.reshape(-1, *[1] * len(sides)) for one in (self.weight, self.bias))
    return normal * weight + bias


PATCH = Patch(
    __name__,
    summary="Group norm becomes ReduceMean along one axis after the other instead of InstanceNormalization.",
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
