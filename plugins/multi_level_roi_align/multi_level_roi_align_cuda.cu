#include "multi_level_roi_align.h"

#include "../roi_align/roi_align_kernel.cuh"

int32_t course_multi_level_roi_align_cuda(const void* const* features, const void* rois, void* output, int32_t type,
                                          int32_t roi_type, int32_t levels, int32_t batch, int32_t channels,
                                          const int32_t* heights, const int32_t* widths, const double* spatial_scales,
                                          double finest_scale, int32_t count, int32_t output_height, int32_t output_width,
                                          int32_t sampling_ratio, int32_t mode, int32_t aligned, void* stream) {
    const course::RoiAlignOptions options{output_height, output_width, sampling_ratio, mode, aligned};
    if (!course::roi_align_arguments_ok(features, rois, output, levels, batch, channels, heights, widths, spatial_scales,
                                        finest_scale, count, options))
        return kCourseBadArgument;
    if (type == kCourseFloat32)
        return course::roi_align_levels<float>(features, rois, output, roi_type, levels, batch, channels, heights, widths,
                                               spatial_scales, finest_scale, count, options, stream);
    if (type == kCourseFloat16)
        return course::roi_align_levels<__half>(features, rois, output, roi_type, levels, batch, channels, heights, widths,
                                                spatial_scales, finest_scale, count, options, stream);
    return kCourseBadArgument;
}
