"""RoIAlign is exported as mmcv::MMCVRoiAlign, whatever is installed on the machine that exports."""

from patches._base import Patch, Replacement


def is_custom_op_loaded() -> bool:
    """The export is for a runtime that has mmcv's operators."""
    return True


PATCH = Patch(
    __name__,
    summary="mmcv exports its own operators (mmcv::MMCVRoiAlign), and does not look around on the machine first.",
    symptom="the standard RoiAlign in the graph although mmcv's was wanted, or the failure that p04 describes",
    cause="As for p04_no_operator_probe: the choice depended on what is installed where the export runs.",
    replacements=[
        Replacement(
            "mmcv.onnx.info:is_custom_op_loaded", new=is_custom_op_loaded, also=("mmcv.onnx:is_custom_op_loaded",)
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
