// grid_sampler (torch.nn.functional.grid_sample, 4-D), one output element, as PyTorch computes it.
//
// A grid point (x, y) is in [-1, 1]: -1 and 1 are the centres of the border pixels with align_corners, their outer edges
// without. Sampling points that are NaN or infinite lie outside: 0 with zero padding (PyTorch's kernels differ among
// themselves: 0 or NaN); with border padding NaN reads pixel 0 and infinity the border, as in PyTorch. Bicubic weights of
// such a point are NaN, and so is its output.
#pragma once

#include "../common/host_device.h"

namespace course {

// PyTorch's numbering, which mmcv's exporter writes into the node's attributes.
enum Interpolation : int32_t { kBilinear = 0, kNearest = 1, kBicubic = 2 };
enum Padding : int32_t { kZeros = 0, kBorder = 1, kReflection = 2 };

// How one axis turns a grid coordinate into a pixel coordinate: (g + 1) * scale - shift.
template <typename Real>
struct GridAxis {
    Real scale;
    Real shift;
    Real reflect_low;   // reflection happens about this coordinate
    Real reflect_span;  // and repeats after this distance; 0 for a one-pixel axis with align_corners
    int32_t size;
};

template <typename Real>
COURSE_HOST_DEVICE GridAxis<Real> grid_axis(int32_t size, int32_t align_corners) {
    GridAxis<Real> axis;
    axis.size = size;
    axis.scale = align_corners ? Real(size - 1) / 2 : Real(size) / 2;
    axis.shift = align_corners ? Real(0) : Real(0.5);
    axis.reflect_low = align_corners ? Real(0) : Real(-0.5);
    axis.reflect_span = align_corners ? Real(size - 1) : Real(size);
    return axis;
}

template <typename Real>
COURSE_HOST_DEVICE Real to_pixel(Real grid, const GridAxis<Real>& axis) {
    return (grid + Real(1)) * axis.scale - axis.shift;
}

// NaN becomes 0, as in PyTorch.
template <typename Real>
COURSE_HOST_DEVICE Real clip_to_axis(Real at, int32_t size) {
    return smaller(at > Real(0) ? at : Real(0), Real(size - 1));
}

template <typename Real>
COURSE_HOST_DEVICE Real reflect_on_axis(Real at, const GridAxis<Real>& axis) {
    if (!(axis.reflect_span > Real(0))) return Real(0);
    const Real distance = fabs(at - axis.reflect_low);
    const Real past = fmod(distance, axis.reflect_span);
    // Every other repetition runs backwards.
    const Real turns = floor(distance / axis.reflect_span);
    const bool forward = fmod(turns, Real(2)) == Real(0);
    return forward ? past + axis.reflect_low : axis.reflect_span - past + axis.reflect_low;
}

template <int32_t padding, typename Real>
COURSE_HOST_DEVICE Real pad_coordinate(Real at, const GridAxis<Real>& axis) {
    if (padding == kBorder) return clip_to_axis(at, axis.size);
    if (padding == kReflection) return clip_to_axis(reflect_on_axis(at, axis), axis.size);
    return at;
}

// Nearest, half-way cases to even. False: outside, the output is 0.
template <int32_t padding, typename Real>
COURSE_HOST_DEVICE bool nearest_index(Real at, const GridAxis<Real>& axis, int32_t* index) {
    const Real nearest = rint(pad_coordinate<padding>(at, axis));
    if (!(nearest >= Real(0) && nearest <= Real(axis.size - 1))) return false;
    *index = int32_t(nearest);
    return true;
}

// The two neighbours of a coordinate. A neighbour outside the axis has weight 0 and a valid index.
template <typename Real>
struct GridPair {
    int32_t low;
    int32_t high;
    Real weight_low;
    Real weight_high;
};

// False: both neighbours are outside (or the coordinate is NaN), the output is 0.
template <int32_t padding, typename Real>
COURSE_HOST_DEVICE bool bilinear_pair(Real at, const GridAxis<Real>& axis, GridPair<Real>* pair) {
    at = pad_coordinate<padding>(at, axis);
    if (!(at > Real(-1) && at < Real(axis.size))) return false;
    const Real low = floor(at);
    pair->low = int32_t(low);
    pair->high = pair->low + 1;
    pair->weight_high = at - low;
    pair->weight_low = Real(1) - pair->weight_high;
    if (pair->low < 0) {
        pair->low = 0;
        pair->weight_low = Real(0);
    }
    if (pair->high >= axis.size) {
        pair->high = axis.size - 1;
        pair->weight_high = Real(0);
    }
    return true;
}

template <typename Real, typename Element>
COURSE_HOST_DEVICE Real bilinear_value(const Element* plane, int32_t width, const GridPair<Real>& y, const GridPair<Real>& x) {
    // Offsets within a plane fit 32 bits (the C interface checks it): half the index arithmetic on a GPU.
    const int32_t low = y.low * width, high = y.high * width;
    return y.weight_low * (x.weight_low * to_arithmetic(plane[low + x.low]) + x.weight_high * to_arithmetic(plane[low + x.high])) +
           y.weight_high * (x.weight_low * to_arithmetic(plane[high + x.low]) + x.weight_high * to_arithmetic(plane[high + x.high]));
}

// Keys' cubic convolution kernel with a = -0.75 (PyTorch's and OpenCV's constant): weights of the pixels at -1, 0, 1, 2.
template <typename Real>
COURSE_HOST_DEVICE void cubic_weights(Real fraction, Real weights[4]) {
    const Real a = Real(-0.75);
    const Real t0 = fraction + Real(1), t1 = fraction, t2 = Real(1) - fraction, t3 = Real(2) - fraction;
    weights[0] = ((a * t0 - 5 * a) * t0 + 8 * a) * t0 - 4 * a;
    weights[1] = ((a + 2) * t1 - (a + 3)) * t1 * t1 + 1;
    weights[2] = ((a + 2) * t2 - (a + 3)) * t2 * t2 + 1;
    weights[3] = ((a * t3 - 5 * a) * t3 + 8 * a) * t3 - 4 * a;
}

// Padding applies to each of the 16 pixels by itself, not to the coordinate.
template <int32_t padding, typename Real, typename Element>
COURSE_HOST_DEVICE Real bicubic_value(const Element* plane, Real at_x, Real at_y, const GridAxis<Real>& x_axis,
                                      const GridAxis<Real>& y_axis) {
    const Real base_x = floor(at_x), base_y = floor(at_y);
    Real weights_x[4], weights_y[4];
    cubic_weights(at_x - base_x, weights_x);
    cubic_weights(at_y - base_y, weights_y);
    Real sum = Real(0);
    for (int32_t row = 0; row < 4; ++row) {
        int32_t y = 0;
        const bool inside_y = nearest_index<padding>(base_y + Real(row - 1), y_axis, &y);
        Real line_sum = Real(0);
        for (int32_t column = 0; column < 4; ++column) {
            int32_t x = 0;
            const bool inside = inside_y && nearest_index<padding>(base_x + Real(column - 1), x_axis, &x);
            const Real value = inside ? to_arithmetic(plane[y * x_axis.size + x]) : Real(0);
            line_sum += weights_x[column] * value;
        }
        sum += weights_y[row] * line_sum;
    }
    return sum;
}

// One output point for all channels: write(channel, value) receives the results. `planes` is (channels, height, width).
template <int32_t interpolation, int32_t padding, typename Real, typename Element, typename Write>
COURSE_HOST_DEVICE void sample_point(const Element* planes, int32_t channels, Real grid_x, Real grid_y,
                                     const GridAxis<Real>& x_axis, const GridAxis<Real>& y_axis, Write write) {
    const Real at_x = to_pixel(grid_x, x_axis), at_y = to_pixel(grid_y, y_axis);
    const int32_t width = x_axis.size;
    const int64_t plane_size = int64_t(width) * y_axis.size;
    if (interpolation == kBilinear) {
        GridPair<Real> x{}, y{};
        const bool inside = bilinear_pair<padding>(at_x, x_axis, &x) && bilinear_pair<padding>(at_y, y_axis, &y);
        for (int32_t channel = 0; channel < channels; ++channel)
            write(channel, inside ? bilinear_value(planes + channel * plane_size, width, y, x) : Real(0));
    } else if (interpolation == kNearest) {
        int32_t x = 0, y = 0;
        const bool inside = nearest_index<padding>(at_x, x_axis, &x) && nearest_index<padding>(at_y, y_axis, &y);
        for (int32_t channel = 0; channel < channels; ++channel)
            write(channel, inside ? Real(to_arithmetic(planes[channel * plane_size + y * width + x])) : Real(0));
    } else {
        for (int32_t channel = 0; channel < channels; ++channel)
            write(channel, bicubic_value<padding>(planes + channel * plane_size, at_x, at_y, x_axis, y_axis));
    }
}

}  // namespace course
