"""RoIAlign is exported as the standard operator, whatever is installed on the machine that exports."""

from patches._base import Patch, Replacement


def is_custom_op_loaded() -> bool:
    """The export is for a runtime without mmcv's operators."""
    return False


PATCH = Patch(
    __name__,
    summary="mmcv exports standard operators, and does not look around on the machine first.",
    symptom="AttributeError: module 'tensorrt' has no attribute 'Logger'; or another graph on another machine",
    cause=(
        "RoIAlign's symbolic asks whether mmcv's TensorRT or ONNX Runtime plugins are loaded here, and chooses the "
        "operator by that. The check imports tensorrt and fails on anything but a complete installation; and the "
        "machine that exports need not be the one that runs the graph."
    ),
    replacements=[
        Replacement(
            "mmcv.onnx.info:is_custom_op_loaded", new=is_custom_op_loaded, also=("mmcv.onnx:is_custom_op_loaded",)
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
