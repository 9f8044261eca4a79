// What the kernels share: conversions between the stored and the computed type, and the launch check.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "host_device.h"

namespace course {

__device__ __forceinline__ float to_arithmetic(__half value) { return __half2float(value); }

template <typename Element>
__device__ __forceinline__ Element from_arithmetic(float value);
template <>
__device__ __forceinline__ float from_arithmetic<float>(float value) {
    return value;
}
// Round to nearest even; beyond 65,504 it is infinity, as in every half-precision layer.
template <>
__device__ __forceinline__ __half from_arithmetic<__half>(float value) {
    return __float2half_rn(value);
}

inline int32_t launch_status() { return int32_t(cudaGetLastError()); }

// A pack of `count` elements that is loaded or stored in one access.
template <typename Element, int32_t count>
struct alignas(sizeof(Element) * count) Pack {
    Element at[count];
};

inline bool aligned_to(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace course
