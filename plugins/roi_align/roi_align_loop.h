// The host loop shared by MMCVRoiAlign (one level) and MultiLevelRoIAlign.
#pragma once

#include <vector>

#include "roi_align_math.h"

namespace course {

template <typename Real>
struct FeatureLevel {
    const Real* data;
    int32_t height;
    int32_t width;
    Real spatial_scale;
};

// All bins of one RoI on one level. `output` is (channels, output_height, output_width).
template <typename Real>
void roi_align_one_host(const FeatureLevel<Real>& level, int32_t batch_index, int32_t channels, const Real* roi,
                        const RoiAlignOptions& options, Real* output) {
    const int32_t bins_y = options.output_height, bins_x = options.output_width;
    const RoiAxis<Real> y = roi_axis(roi[2], roi[4], level.spatial_scale, bins_y, level.height, options);
    const RoiAxis<Real> x = roi_axis(roi[1], roi[3], level.spatial_scale, bins_x, level.width, options);

    // The same decision as in the kernel: taps where they fit, otherwise sample by sample.
    bool use_taps = options.mode == kRoiAlignAverage && bins_y <= kMaxTapBins && bins_x <= kMaxTapBins;
    std::vector<AxisTap<Real>> taps_y, taps_x;
    std::vector<int32_t> counts_y(bins_y), counts_x(bins_x);
    if (use_taps) {
        taps_y.resize(size_t(kMaxTaps) * bins_y);
        taps_x.resize(size_t(kMaxTaps) * bins_x);
        for (int32_t bin = 0; bin < bins_y; ++bin)
            use_taps &= (counts_y[bin] = axis_taps(y, bin, kMaxTaps, bins_y, &taps_y[bin])) >= 0;
        for (int32_t bin = 0; bin < bins_x; ++bin)
            use_taps &= (counts_x[bin] = axis_taps(x, bin, kMaxTaps, bins_x, &taps_x[bin])) >= 0;
    }

    const int64_t plane_size = int64_t(level.height) * level.width;
    for (int32_t channel = 0; channel < channels; ++channel) {
        const Real* plane = level.data + (int64_t(batch_index) * channels + channel) * plane_size;
        for (int32_t bin_y = 0; bin_y < bins_y; ++bin_y) {
            for (int32_t bin_x = 0; bin_x < bins_x; ++bin_x) {
                *output++ = use_taps ? bin_mean_from_taps(plane, level.width, &taps_y[bin_y], counts_y[bin_y], bins_y,
                                                          &taps_x[bin_x], counts_x[bin_x], bins_x, bin_samples(y, x))
                                     : bin_from_samples(plane, y, x, bin_y, bin_x, options.mode);
            }
        }
    }
}

}  // namespace course
