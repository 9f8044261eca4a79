// The C interface of grid_sampler.
#pragma once

#include "../common/host_device.h"

// input (batch, channels, height, width), grid (batch, out_height, out_width, 2) with x before y,
// output (batch, channels, out_height, out_width). interpolation: 0 bilinear, 1 nearest, 2 bicubic; padding: 0 zeros,
// 1 border, 2 reflection. `grid_type` may be float32 beside a float16 input: half precision has too few bits for the
// coordinates of a picture 1216 pixels wide.
COURSE_API int32_t course_grid_sampler_host(const void* input, const void* grid, void* output, int32_t type, int32_t batch,
                                            int32_t channels, int32_t height, int32_t width, int32_t out_height,
                                            int32_t out_width, int32_t interpolation, int32_t padding,
                                            int32_t align_corners);

COURSE_API int32_t course_grid_sampler_cuda(const void* input, const void* grid, void* output, int32_t type,
                                            int32_t grid_type, int32_t batch, int32_t channels, int32_t height,
                                            int32_t width, int32_t out_height, int32_t out_width, int32_t interpolation,
                                            int32_t padding, int32_t align_corners, void* stream);
