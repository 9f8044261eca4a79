// The library's entry points. Nothing registers itself when the library is loaded: TensorRT 8.6 and later ask for the
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

// What no TensorRT has. (NonMaxSuppression and ScatterND have importers of their own in the ONNX parser, since 8.0 and 8.2,
// and an importer comes before a plugin; ScatterND is registered by NVIDIA's plugin library besides.)
constexpr int32_t kCreators = 3;

CreatorInterface* const* creators() noexcept {
    static CreatorInterface* const all[kCreators] = {&roi_align_creator(), &grid_sampler_creator(),
                                                     &multi_level_roi_align_creator()};
    return all;
}

#if NV_TENSORRT_MAJOR >= 10
const char* name_of(CreatorInterface& creator) noexcept {
    return static_cast<nvinfer1::IPluginCreatorV3One&>(creator).getPluginName();
}
bool is_taken(nvinfer1::IPluginRegistry& registry, const char* name) noexcept {
    return registry.getCreator(name, version(), "") != nullptr;
}
#else
const char* name_of(CreatorInterface& creator) noexcept { return creator.getPluginName(); }
bool is_taken(nvinfer1::IPluginRegistry& registry, const char* name) noexcept {
    return registry.getPluginCreator(name, version(), "") != nullptr;
}
#endif

}  // namespace
}  // namespace course

// For IPluginRegistry::loadLibrary and `trtexec --dynamicPlugins`.
#if NV_TENSORRT_MAJOR >= 10
COURSE_API course::CreatorInterface* const* getCreators(int32_t& count) {
#else
COURSE_API course::CreatorInterface* const* getPluginCreators(int32_t& count) {
#endif
    count = course::kCreators;
    return course::creators();
}
// It is an ILoggerFinder*, which 8.4 does not declare and other versions declare differently; errors go to getLogger().
COURSE_API void setLoggerFinder(void*) {}

// For every version, through ctypes: load the library, then call this. A name that the registry holds already is left to
// whoever holds it. Returns one line an operator, "<name> registered", "<name> present" or "<name> refused" (TensorRT's log
// says why); the text stays valid until the next call.
COURSE_API const char* course_plugins_register() {
    static char answer[512];
    nvinfer1::IPluginRegistry* registry = getPluginRegistry();
    size_t length = 0;
    answer[0] = '\0';
    for (int32_t i = 0; i < course::kCreators; ++i) {
        course::CreatorInterface& creator = *course::creators()[i];
        const char* name = course::name_of(creator);
        // Asked in this order because TensorRT logs an error for a name that it is asked for and does not have.
        const char* outcome = "refused";
        if (registry && registry->registerCreator(creator, ""))
            outcome = "registered";
        else if (registry && course::is_taken(*registry, name))
            outcome = "present";
        length += size_t(snprintf(answer + length, sizeof(answer) - length, "%s %s\n", name, outcome));
    }
    return answer;
}
