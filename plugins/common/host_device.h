// What every operator's header shares: functions that compile for the CPU and for the GPU, and the status codes.
#pragma once

#ifdef __CUDACC__
#define COURSE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define COURSE_HOST_DEVICE inline
#endif

#include <math.h>
#include <stdint.h>

#if defined(_WIN32)
#define COURSE_API extern "C" __declspec(dllexport)
#else
#define COURSE_API extern "C" __attribute__((visibility("default")))
#endif

// Element types on the C interface. Host functions take float32 and float64 (the second is a reference for tests),
// CUDA functions float32 and float16, ScatterND also the integers.
enum CourseType : int32_t {
    kCourseFloat32 = 0,
    kCourseFloat16 = 1,
    kCourseInt32 = 2,
    kCourseInt64 = 3,
    kCourseFloat64 = 4,
};

// Host functions return these; CUDA functions return a cudaError_t (0 is success in both).
enum CourseStatus : int32_t {
    kCourseOk = 0,
    kCourseBadArgument = 1,  // equals cudaErrorInvalidValue, so that one number means the same on both sides
    kCourseIndexOutOfRange = 2,
};

namespace course {

// The arithmetic is done in float for float16 and float32 tensors, in double for float64.
template <typename Element>
struct Arithmetic {
    using type = float;
};
template <>
struct Arithmetic<double> {
    using type = double;
};

// CUDA's half converts to float explicitly; the overload for it is in cuda_common.h.
COURSE_HOST_DEVICE float to_arithmetic(float value) { return value; }
COURSE_HOST_DEVICE double to_arithmetic(double value) { return value; }

template <typename Real>
COURSE_HOST_DEVICE Real smaller(Real a, Real b) {
    return b < a ? b : a;
}
template <typename Real>
COURSE_HOST_DEVICE Real larger(Real a, Real b) {
    return a < b ? b : a;
}

// Offsets within one channel of one picture are 32-bit.
COURSE_HOST_DEVICE bool plane_fits(int32_t height, int32_t width) {
    return height > 0 && width > 0 && int64_t(height) * width <= 0x7fffffff;
}

}  // namespace course
