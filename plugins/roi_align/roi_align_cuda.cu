#include "roi_align.h"

#include "roi_align_kernel.cuh"

int32_t course_roi_align_cuda(const void* features, const void* rois, void* output, int32_t type, int32_t roi_type,
                              int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t count,
                              int32_t output_height, int32_t output_width, double spatial_scale, int32_t sampling_ratio,
                              int32_t mode, int32_t aligned, void* stream) {
    const course::RoiAlignOptions options{output_height, output_width, sampling_ratio, mode, aligned};
    if (!course::roi_align_arguments_ok(&features, rois, output, 1, batch, channels, &height, &width, &spatial_scale, 1, count,
                                        options))
        return kCourseBadArgument;
    if (type == kCourseFloat32)
        return course::roi_align_levels<float>(&features, rois, output, roi_type, 1, batch, channels, &height, &width,
                                               &spatial_scale, 0, count, options, stream);
    if (type == kCourseFloat16)
        return course::roi_align_levels<__half>(&features, rois, output, roi_type, 1, batch, channels, &height, &width,
                                                &spatial_scale, 0, count, options, stream);
    return kCourseBadArgument;
}
