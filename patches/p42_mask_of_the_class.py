"""The mask head's last layers are products for the detected class only, instead of a transposed convolution for all."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="Of each detection's masks, one a class, only that of the detected class is computed, and sooner.",
    symptom="79 of 80 masks are computed and thrown away, and the layer before them has no 8-bit kernel",
    cause=(
        "mmdet computes 80 masks of 28 x 28 for each detection and picks one. A mask is a product of one row of the "
        "layer's weights with the features, so the row can be picked first. The features' upsampling is a transposed "
        "convolution whose kernel is its stride: a product with each cell, which a plain convolution says as well, and "
        "which ONNX Runtime computes faster, and in 8 bits too."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.standard_roi_head:StandardRoIHead.mask_onnx_export",
            edits=(
                Edit(
                    """
                    mask_results = self._mask_forward(x, mask_rois)
                    mask_pred = mask_results['mask_pred']
                    """,
                    """
                    head = self.mask_head
                    up, layer = head.upsample, head.conv_logits
                    # By name: mmcv has its own classes. Other layers (NormedConv2d) are no product with their weights.
                    products = [type(one).__name__ for one in (up, layer)] == ['ConvTranspose2d', 'Conv2d']
                    products = products and layer.kernel_size == (1, 1) and not head.class_agnostic
                    products = products and up.kernel_size == up.stride and up.padding == (0, 0) and up.groups == 1
                    if products:
                        head.upsample = head.conv_logits = torch.nn.Identity()
                    try:
                        mask_pred = self._mask_forward(x, mask_rois)['mask_pred']
                    finally:
                        head.upsample, head.conv_logits = up, layer
                    if products:
                        height, width = (int(length) for length in mask_pred.shape[-2:])
                        down, right = up.kernel_size
                        # Each channel's down x right values of a cell, as channels.
                        kernels = up.weight.permute(1, 2, 3, 0).reshape(-1, up.in_channels, 1, 1)
                        bias = up.bias.repeat_interleave(down * right)
                        cells = torch.nn.functional.conv2d(mask_pred, kernels, bias).relu()
                        labels = det_labels.reshape(-1)
                        rows = layer.weight.flatten(1)[labels][:, None]
                        mask_pred = rows @ cells.reshape(-1, up.out_channels, down * right * height * width)
                        mask_pred = mask_pred + layer.bias[labels][:, None, None]
                        mask_pred = mask_pred.reshape(-1, down, right, height, width).permute(0, 3, 1, 4, 2)
                        mask_pred = mask_pred.reshape(-1, 1, height * down, width * right)
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.mask_heads.fcn_mask_head:FCNMaskHead.onnx_export",
            edits=(Edit("if not self.class_agnostic:", "if not self.class_agnostic and mask_pred.shape[1] > 1:"),),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
