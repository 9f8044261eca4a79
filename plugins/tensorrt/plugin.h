// The plugin interface of the TensorRT that is compiled against: IPluginV2DynamicExt, which 8.4 and 8.6 have and which is
// deprecated since 10.0, or IPluginV3, which came with it.
#pragma once

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR >= 10
#include "plugin_v3.h"
#else
#include "plugin_v2.h"
#endif

namespace course {

// Defined by each operator's *_plugin.cpp, collected by registry.cpp.
CreatorInterface& roi_align_creator() noexcept;
CreatorInterface& multi_level_roi_align_creator() noexcept;
CreatorInterface& grid_sampler_creator() noexcept;

}  // namespace course
