// The C interface of MultiLevelRoIAlign: mmdet's SingleRoIExtractor as one operator. Each RoI is sampled on the one
// pyramid level that its size selects; mmdet's exported graph samples every RoI on every level and multiplies three of
// the four results by zero.
#pragma once

#include "../roi_align/roi_align_options.h"  // kCourseMaxLevels

// features: `levels` pointers to (batch, channels, heights[l], widths[l]); the rest as in roi_align.h. spatial_scales[l] is
// 1 / stride. A RoI of finest_scale * 2^l to finest_scale * 2^(l+1) pixels (square root of its area) goes to level l.
COURSE_API int32_t course_multi_level_roi_align_host(const void* const* features, const void* rois, void* output,
                                                     int32_t type, int32_t levels, int32_t batch, int32_t channels,
                                                     const int32_t* heights, const int32_t* widths,
                                                     const double* spatial_scales, double finest_scale, int32_t count,
                                                     int32_t output_height, int32_t output_width, int32_t sampling_ratio,
                                                     int32_t mode, int32_t aligned);

COURSE_API int32_t course_multi_level_roi_align_cuda(const void* const* features, const void* rois, void* output,
                                                     int32_t type, int32_t roi_type, int32_t levels, int32_t batch,
                                                     int32_t channels, const int32_t* heights, const int32_t* widths,
                                                     const double* spatial_scales, double finest_scale, int32_t count,
                                                     int32_t output_height, int32_t output_width, int32_t sampling_ratio,
                                                     int32_t mode, int32_t aligned, void* stream);
