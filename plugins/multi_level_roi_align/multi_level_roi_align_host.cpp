#include "multi_level_roi_align.h"

#include <algorithm>

#include "../roi_align/roi_align_loop.h"

namespace {

template <typename Real>
void run(const void* const* features, const void* rois, void* output, int32_t levels, int32_t batch, int32_t channels,
         const int32_t* heights, const int32_t* widths, const double* spatial_scales, double finest_scale, int32_t count,
         const course::RoiAlignOptions& options) {
    const int64_t roi_size = int64_t(channels) * options.output_height * options.output_width;
    for (int32_t n = 0; n < count; ++n) {
        const Real* roi = static_cast<const Real*>(rois) + int64_t(n) * 5;
        Real* target = static_cast<Real*>(output) + n * roi_size;
        const int32_t picture = course::roi_batch_index(roi[0], batch);
        const int32_t l = course::roi_level(roi[1], roi[2], roi[3], roi[4], Real(finest_scale), levels);
        if (picture < 0 || l < 0) {
            std::fill(target, target + roi_size, Real(0));
            continue;
        }
        const course::FeatureLevel<Real> level{static_cast<const Real*>(features[l]), heights[l], widths[l],
                                               Real(spatial_scales[l])};
        course::roi_align_one_host(level, picture, channels, roi, options, target);
    }
}

}  // namespace

int32_t course_multi_level_roi_align_host(const void* const* features, const void* rois, void* output, int32_t type,
                                          int32_t levels, int32_t batch, int32_t channels, const int32_t* heights,
                                          const int32_t* widths, const double* spatial_scales, double finest_scale,
                                          int32_t count, int32_t output_height, int32_t output_width,
                                          int32_t sampling_ratio, int32_t mode, int32_t aligned) {
    const course::RoiAlignOptions options{output_height, output_width, sampling_ratio, mode, aligned};
    if (!course::roi_align_arguments_ok(features, rois, output, levels, batch, channels, heights, widths, spatial_scales,
                                        finest_scale, count, options))
        return kCourseBadArgument;
    if (count == 0 || channels == 0) return kCourseOk;
    if (type == kCourseFloat32) {
        run<float>(features, rois, output, levels, batch, channels, heights, widths, spatial_scales, finest_scale, count,
                   options);
    } else if (type == kCourseFloat64) {
        run<double>(features, rois, output, levels, batch, channels, heights, widths, spatial_scales, finest_scale, count,
                    options);
    } else {
        return kCourseBadArgument;
    }
    return kCourseOk;
}
