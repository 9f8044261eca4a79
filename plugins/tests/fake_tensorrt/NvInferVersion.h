// NOT TensorRT. The version that the stand-in is of, unless -DNV_TENSORRT_MAJOR=8 chooses the older interface.
#pragma once

#ifndef NV_TENSORRT_MAJOR
#define NV_TENSORRT_MAJOR 10
#endif
