// The library's three entry points. Nothing registers itself when the library is loaded: TensorRT 8.5 and later ask for the
// creators themselves, and a second registration under the same name is an error.
#include <stdio.h>

#include "plugin.h"

namespace course {

void report_error(const char* message) noexcept {
    if (nvinfer1::ILogger* logger = getLogger()) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message);
    } else {
        fprintf(stderr, "%s\n", message);
    }
}

namespace {

constexpr int32_t kCreators = 5;

nvinfer1::IPluginCreator* const* creators() {
    static nvinfer1::IPluginCreator* const all[kCreators] = {&roi_align_creator(), &grid_sampler_creator(),
                                                             &non_max_suppression_creator(), &scatter_nd_creator(),
                                                             &multi_level_roi_align_creator()};
    return all;
}

}  // namespace
}  // namespace course

// For IPluginRegistry::loadLibrary and `trtexec --dynamicPlugins`.
COURSE_API nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) {
    count = course::kCreators;
    return course::creators();
}
// It is an ILoggerFinder*, which 8.4 does not declare and other versions declare differently; errors go to getLogger().
COURSE_API void setLoggerFinder(void*) {}

// For versions without loadLibrary, and for ctypes: load the library, then call this once. Returns how many creators are
// registered under their names afterwards; fewer than there are means that a name was taken (the log says which).
COURSE_API int32_t course_plugins_register() {
    nvinfer1::IPluginRegistry* registry = getPluginRegistry();
    int32_t registered = 0;
    for (int32_t i = 0; registry && i < course::kCreators; ++i)
        registered += registry->registerCreator(*course::creators()[i], "") ? 1 : 0;
    return registered;
}
