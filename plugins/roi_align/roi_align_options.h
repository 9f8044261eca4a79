// What MMCVRoiAlign and MultiLevelRoIAlign are told besides their tensors, and the one check of it that the host loops and
// the kernels share.
#pragma once

#include "../common/host_device.h"

enum { kCourseMaxLevels = 8 };

namespace course {

constexpr int32_t kMaxGrid = 4096;  // 4096 points over 7 bins cover 28,672 feature pixels: far more than any picture
constexpr int32_t kMaxBins = 1 << 24;  // of one RoI; 64 times as many are still counted in 32 bits

enum RoiAlignMode : int32_t { kRoiAlignMax = 0, kRoiAlignAverage = 1 };

struct RoiAlignOptions {
    int32_t output_height;
    int32_t output_width;
    int32_t sampling_ratio;  // 0: adaptive, ceil(bin size) points an axis
    int32_t mode;            // RoiAlignMode
    int32_t aligned;         // 1: shift by half a pixel (detectron2); 0: the legacy behaviour
};

inline bool options_ok(const RoiAlignOptions& o) {
    return o.output_height > 0 && o.output_width > 0 && int64_t(o.output_height) * o.output_width <= kMaxBins &&
           o.sampling_ratio >= 0 && o.sampling_ratio <= kMaxGrid && (o.mode == kRoiAlignMax || o.mode == kRoiAlignAverage) &&
           (o.aligned == 0 || o.aligned == 1);
}

// The arguments of the C interfaces; a single level has finest_scale 1.
inline bool roi_align_arguments_ok(const void* const* features, const void* rois, const void* output, int32_t levels,
                                   int32_t batch, int32_t channels, const int32_t* heights, const int32_t* widths,
                                   const double* spatial_scales, double finest_scale, int32_t count,
                                   const RoiAlignOptions& options) {
    if (!options_ok(options) || batch < 0 || channels < 0 || count < 0 || levels < 1 || levels > kCourseMaxLevels ||
        !(finest_scale > 0 && isfinite(finest_scale)) || !features || !heights || !widths || !spatial_scales)
        return false;
    const bool nothing_to_do = count == 0 || channels == 0;
    for (int32_t l = 0; l < levels; ++l) {
        if (!plane_fits(heights[l], widths[l]) || !(spatial_scales[l] > 0 && isfinite(spatial_scales[l]))) return false;
        if (!nothing_to_do && batch > 0 && !features[l]) return false;
    }
    return nothing_to_do || (rois && output);
}

}  // namespace course
