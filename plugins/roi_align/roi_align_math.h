// RoIAlign (He et al. 2017, section 3), one output element, as mmcv computes it.
//
// A RoI is (batch index, x1, y1, x2, y2) in picture pixels; multiplied by spatial_scale it lies on the feature map. It is
// cut into output_height x output_width bins, each bin is sampled at grid_height x grid_width points, each point is
// interpolated bilinearly, and the bin's value is their mean or their maximum.
//
// The mean is computed in a cheaper order than the definition reads. Bilinear weights are a product of a weight in y and
// a weight in x, so the mean over a bin is  sum_r Wy[r] * sum_c Wx[c] * feature[r, c] / count, where Wy[r] adds up what
// all samples give to feature row r. Neighbouring samples are at most one pixel apart when the sampling is adaptive, so
// they share rows and columns: (g + 1)^2 reads a bin instead of (2 g)^2. A row's or column's share is an AxisTap.
//
// Inputs that have no defined answer get a defined one here, because a plugin must not read outside its buffers:
//  - a batch index outside [0, batch), or NaN: the RoI's output is 0;
//  - a sample point that is NaN, or more than one pixel outside the map: it counts as 0 (as in mmcv for the latter);
//  - adaptive sampling of a RoI so large that a bin needs more than kMaxGrid points an axis: kMaxGrid points are used.
#pragma once

#include "roi_align_options.h"

namespace course {

constexpr int32_t kMaxTaps = 48;    // taps an axis that the fast path holds; larger bins take the sample by sample path
constexpr int32_t kMaxTapBins = 32; // bins an axis, likewise

// One axis of one RoI on the feature map.
template <typename Real>
struct RoiAxis {
    Real start;
    Real bin;       // size of a bin in feature pixels
    int32_t grid;   // sample points in a bin
    int32_t size;   // feature pixels on this axis
};

// A sample's two neighbours on one axis; both weights are 0 for a sample outside the map.
template <typename Real>
struct AxisSample {
    int32_t low;
    int32_t high;
    Real weight_low;
    Real weight_high;
    bool inside;
};

// What one feature row (or column) gives to a bin: its index, and the sum of its weights over the bin's samples.
template <typename Real>
struct AxisTap {
    int32_t index;
    Real weight;
};

template <typename Real>
COURSE_HOST_DEVICE RoiAxis<Real> roi_axis(Real begin, Real end, Real spatial_scale, int32_t bins, int32_t size,
                                          const RoiAlignOptions& options) {
    const Real shift = options.aligned ? Real(0.5) : Real(0);
    RoiAxis<Real> axis;
    axis.start = begin * spatial_scale - shift;
    Real extent = (end * spatial_scale - shift) - axis.start;
    // The legacy behaviour: a RoI is at least one feature pixel wide.
    if (!options.aligned && extent < Real(1)) extent = Real(1);
    axis.bin = extent / Real(bins);
    axis.size = size;
    if (options.sampling_ratio > 0) {
        axis.grid = options.sampling_ratio;
    } else {
        const Real points = ceil(axis.bin);
        // NaN and negative extents fail the first comparison: no samples, hence 0.
        axis.grid = points > Real(0) ? (points < Real(kMaxGrid) ? int32_t(points) : kMaxGrid) : 0;
    }
    return axis;
}

template <typename Real>
COURSE_HOST_DEVICE AxisSample<Real> axis_sample(const RoiAxis<Real>& axis, int32_t bin, int32_t point) {
    Real at = axis.start + Real(bin) * axis.bin + (Real(point) + Real(0.5)) * axis.bin / Real(axis.grid);
    AxisSample<Real> sample;
    // Written so that NaN is outside.
    sample.inside = at >= Real(-1) && at <= Real(axis.size);
    if (!sample.inside) {
        sample.low = sample.high = 0;
        sample.weight_low = sample.weight_high = Real(0);
        return sample;
    }
    if (at < Real(0)) at = Real(0);
    sample.low = int32_t(at);
    if (sample.low >= axis.size - 1) {
        sample.low = sample.high = axis.size - 1;
        sample.weight_high = Real(0);
    } else {
        sample.high = sample.low + 1;
        sample.weight_high = at - Real(sample.low);
    }
    sample.weight_low = Real(1) - sample.weight_high;
    return sample;
}

// Writes the taps of one bin to taps[0], taps[stride], ...; returns how many there are, or -1 for more than `capacity`.
template <typename Real>
COURSE_HOST_DEVICE int32_t axis_taps(const RoiAxis<Real>& axis, int32_t bin, int32_t capacity, int32_t stride,
                                     AxisTap<Real>* taps) {
    int32_t count = 0;
    for (int32_t point = 0; point < axis.grid; ++point) {
        const AxisSample<Real> sample = axis_sample(axis, bin, point);
        if (!sample.inside) continue;
        for (int32_t side = 0; side < 2; ++side) {
            const int32_t index = side ? sample.high : sample.low;
            const Real weight = side ? sample.weight_high : sample.weight_low;
            if (side && weight == Real(0)) continue;
            // Samples move forward, so an index that was seen before is one of the last two.
            if (count > 0 && taps[(count - 1) * stride].index == index) {
                taps[(count - 1) * stride].weight += weight;
            } else if (count > 1 && taps[(count - 2) * stride].index == index) {
                taps[(count - 2) * stride].weight += weight;
            } else {
                if (count == capacity) return -1;
                taps[count * stride].index = index;
                taps[count * stride].weight = weight;
                ++count;
            }
        }
    }
    return count;
}

// The mean over a bin from its taps. `plane` is one channel of the feature map, row-major.
template <typename Real, typename Element>
COURSE_HOST_DEVICE Real bin_mean_from_taps(const Element* plane, int32_t width, const AxisTap<Real>* taps_y, int32_t count_y,
                                           int32_t stride_y, const AxisTap<Real>* taps_x, int32_t count_x, int32_t stride_x,
                                           Real samples) {
    Real sum = Real(0);
    for (int32_t row = 0; row < count_y; ++row) {
        const AxisTap<Real> tap_y = taps_y[row * stride_y];
        const Element* line = plane + tap_y.index * width;
        Real line_sum = Real(0);
        for (int32_t column = 0; column < count_x; ++column) {
            const AxisTap<Real> tap_x = taps_x[column * stride_x];
            line_sum += tap_x.weight * to_arithmetic(line[tap_x.index]);
        }
        sum += tap_y.weight * line_sum;
    }
    return sum / samples;
}

// The number that the mean divides by: all samples, also those outside the map; at least 1.
template <typename Real>
COURSE_HOST_DEVICE Real bin_samples(const RoiAxis<Real>& y, const RoiAxis<Real>& x) {
    const Real samples = Real(y.grid) * Real(x.grid);
    return samples > Real(1) ? samples : Real(1);
}

// Mean or maximum over a bin, sample by sample.
template <typename Real, typename Element>
COURSE_HOST_DEVICE Real bin_from_samples(const Element* plane, const RoiAxis<Real>& y_axis, const RoiAxis<Real>& x_axis,
                                         int32_t bin_y, int32_t bin_x, int32_t mode) {
    Real sum = Real(0);
    Real maximum = Real(-10000);  // where mmcv's maximum starts, hence also its answer for a bin without samples
    for (int32_t iy = 0; iy < y_axis.grid; ++iy) {
        const AxisSample<Real> y = axis_sample(y_axis, bin_y, iy);
        // A row of samples outside the map is all zeros: nothing for the mean, one candidate for the maximum.
        if (!y.inside) {
            if (x_axis.grid > 0 && maximum < Real(0)) maximum = Real(0);
            continue;
        }
        const Element* low = plane + y.low * x_axis.size;
        const Element* high = plane + y.high * x_axis.size;
        for (int32_t ix = 0; ix < x_axis.grid; ++ix) {
            const AxisSample<Real> x = axis_sample(x_axis, bin_x, ix);
            Real value = Real(0);
            if (x.inside) {
                value = y.weight_low * (x.weight_low * to_arithmetic(low[x.low]) + x.weight_high * to_arithmetic(low[x.high])) +
                        y.weight_high * (x.weight_low * to_arithmetic(high[x.low]) + x.weight_high * to_arithmetic(high[x.high]));
            }
            sum += value;
            if (value > maximum) maximum = value;
        }
    }
    return mode == kRoiAlignMax ? maximum : sum / bin_samples(y_axis, x_axis);
}

// The picture that a RoI belongs to, or -1 if there is none such.
template <typename Real>
COURSE_HOST_DEVICE int32_t roi_batch_index(Real index, int32_t batch) {
    return index > Real(-1) && index < Real(batch) ? int32_t(index) : -1;
}

// The pyramid level of a RoI: floor(log2(sqrt(area) / finest_scale + 1e-6)), clamped to the levels there are (Lin et al.
// 2017, equation 1, in the form of mmdet's SingleRoIExtractor.map_roi_levels). -1 for a RoI whose area is negative or NaN:
// no level, output 0, as in the graph that mmdet exports.
template <typename Real>
COURSE_HOST_DEVICE int32_t roi_level(Real x1, Real y1, Real x2, Real y2, Real finest_scale, int32_t levels) {
    const Real scale = sqrt((x2 - x1) * (y2 - y1));
    const Real level = floor(log2(scale / finest_scale + Real(1e-6)));
    if (!(level <= Real(levels - 1))) return level > Real(0) ? levels - 1 : -1;
    return level > Real(0) ? int32_t(level) : 0;
}

}  // namespace course
