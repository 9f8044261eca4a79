#include "grid_sampler.h"

#include "grid_sampler_math.h"

namespace {

struct Sizes {
    int32_t batch, channels, height, width, out_height, out_width;
};

template <int32_t interpolation, int32_t padding, typename Real>
void run(const void* input, const void* grid, void* output, const Sizes& s, int32_t align_corners) {
    const auto x_axis = course::grid_axis<Real>(s.width, align_corners);
    const auto y_axis = course::grid_axis<Real>(s.height, align_corners);
    const int64_t out_plane = int64_t(s.out_height) * s.out_width;
    const int64_t in_picture = int64_t(s.channels) * s.height * s.width;
    for (int32_t n = 0; n < s.batch; ++n) {
        const Real* planes = static_cast<const Real*>(input) + n * in_picture;
        const Real* points = static_cast<const Real*>(grid) + n * out_plane * 2;
        Real* target = static_cast<Real*>(output) + n * s.channels * out_plane;
        for (int64_t i = 0; i < out_plane; ++i) {
            course::sample_point<interpolation, padding>(
                planes, s.channels, points[2 * i], points[2 * i + 1], x_axis, y_axis,
                [&](int32_t channel, Real value) { target[channel * out_plane + i] = value; });
        }
    }
}

template <int32_t interpolation, typename Real>
void choose_padding(const void* input, const void* grid, void* output, const Sizes& s, int32_t padding,
                    int32_t align_corners) {
    if (padding == course::kZeros) run<interpolation, course::kZeros, Real>(input, grid, output, s, align_corners);
    if (padding == course::kBorder) run<interpolation, course::kBorder, Real>(input, grid, output, s, align_corners);
    if (padding == course::kReflection)
        run<interpolation, course::kReflection, Real>(input, grid, output, s, align_corners);
}

template <typename Real>
void choose(const void* input, const void* grid, void* output, const Sizes& s, int32_t interpolation, int32_t padding,
            int32_t align_corners) {
    if (interpolation == course::kBilinear)
        choose_padding<course::kBilinear, Real>(input, grid, output, s, padding, align_corners);
    if (interpolation == course::kNearest)
        choose_padding<course::kNearest, Real>(input, grid, output, s, padding, align_corners);
    if (interpolation == course::kBicubic)
        choose_padding<course::kBicubic, Real>(input, grid, output, s, padding, align_corners);
}

}  // namespace

int32_t course_grid_sampler_host(const void* input, const void* grid, void* output, int32_t type, int32_t batch,
                                 int32_t channels, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
                                 int32_t interpolation, int32_t padding, int32_t align_corners) {
    if (batch < 0 || channels < 0 || out_height < 0 || out_width < 0 || interpolation < 0 || interpolation > 2 ||
        padding < 0 || padding > 2)
        return kCourseBadArgument;
    const Sizes sizes{batch, channels, height, width, out_height, out_width};
    if (batch == 0 || channels == 0 || out_height == 0 || out_width == 0) return kCourseOk;
    if (!course::plane_fits(height, width) || !input || !grid || !output) return kCourseBadArgument;
    if (type == kCourseFloat32) {
        choose<float>(input, grid, output, sizes, interpolation, padding, align_corners);
    } else if (type == kCourseFloat64) {
        choose<double>(input, grid, output, sizes, interpolation, padding, align_corners);
    } else {
        return kCourseBadArgument;
    }
    return kCourseOk;
}
