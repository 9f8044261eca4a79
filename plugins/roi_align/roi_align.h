// The C interface of MMCVRoiAlign. All tensors are dense, row-major, on the host or on the device as the name says.
#pragma once

#include "../common/host_device.h"

// features (batch, channels, height, width), rois (count, 5), output (count, channels, output_height, output_width).
// mode: 0 max, 1 average. `type` is of features and output, `roi_type` of the RoIs: half precision has a step of half a
// pixel from 512 on, so a half-precision network does well to keep its coordinates in float.
COURSE_API int32_t course_roi_align_host(const void* features, const void* rois, void* output, int32_t type, int32_t batch,
                                         int32_t channels, int32_t height, int32_t width, int32_t count,
                                         int32_t output_height, int32_t output_width, double spatial_scale,
                                         int32_t sampling_ratio, int32_t mode, int32_t aligned);

COURSE_API int32_t course_roi_align_cuda(const void* features, const void* rois, void* output, int32_t type,
                                         int32_t roi_type, int32_t batch, int32_t channels, int32_t height, int32_t width,
                                         int32_t count, int32_t output_height, int32_t output_width, double spatial_scale,
                                         int32_t sampling_ratio, int32_t mode, int32_t aligned, void* stream);
