"""mmcv's slice helper for ONNX symbolics calls torch's with the arguments that it has today."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="mmcv's ONNX slice helper passes the six arguments that torch's _slice takes.",
    symptom=(
        "TypeError: _slice() takes from 5 to 6 positional arguments but 7 were given "
        "(Occurred when translating upsample_nearest2d)"
    ),
    cause=(
        "register_extra_symbolics replaces torch's own symbolics, among them the one of upsample_nearest2d, by "
        "mmcv's; these call torch's private _slice as it was before torch 1.13, with a seventh argument, dynamic_slice."
    ),
    replacements=[
        Replacement(
            "mmcv.onnx.onnx_utils.symbolic_helper:_slice_helper",
            edits=(
                Edit(
                    "return _slice(g, input, axes, starts, ends, steps, dynamic_slice)",
                    "return _slice(g, input, axes, starts, ends, steps)",
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
