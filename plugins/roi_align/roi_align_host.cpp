#include "roi_align.h"

#include <algorithm>

#include "roi_align_loop.h"

namespace {

template <typename Real>
void run(const void* features, const void* rois, void* output, int32_t batch, int32_t channels, int32_t height,
         int32_t width, int32_t count, double spatial_scale, const course::RoiAlignOptions& options) {
    const course::FeatureLevel<Real> level{static_cast<const Real*>(features), height, width, Real(spatial_scale)};
    const int64_t roi_size = int64_t(channels) * options.output_height * options.output_width;
    for (int32_t n = 0; n < count; ++n) {
        const Real* roi = static_cast<const Real*>(rois) + int64_t(n) * 5;
        Real* target = static_cast<Real*>(output) + n * roi_size;
        const int32_t picture = course::roi_batch_index(roi[0], batch);
        if (picture < 0) {
            std::fill(target, target + roi_size, Real(0));
        } else {
            course::roi_align_one_host(level, picture, channels, roi, options, target);
        }
    }
}

}  // namespace

int32_t course_roi_align_host(const void* features, const void* rois, void* output, int32_t type, int32_t batch,
                              int32_t channels, int32_t height, int32_t width, int32_t count, int32_t output_height,
                              int32_t output_width, double spatial_scale, int32_t sampling_ratio, int32_t mode,
                              int32_t aligned) {
    const course::RoiAlignOptions options{output_height, output_width, sampling_ratio, mode, aligned};
    if (!course::roi_align_arguments_ok(&features, rois, output, 1, batch, channels, &height, &width, &spatial_scale, 1, count,
                                        options))
        return kCourseBadArgument;
    if (count == 0 || channels == 0) return kCourseOk;
    if (type == kCourseFloat32) {
        run<float>(features, rois, output, batch, channels, height, width, count, spatial_scale, options);
    } else if (type == kCourseFloat64) {
        run<double>(features, rois, output, batch, channels, height, width, count, spatial_scale, options);
    } else {
        return kCourseBadArgument;
    }
    return kCourseOk;
}
