// Drives the plugin classes as TensorRT would: creators looked up by name, attributes validated, shapes asked for, formats
// chosen, serialized and read back, cloned, run. The CUDA entry points are replaced by the host loops, so the "device"
// pointers are ordinary ones and what comes out can be compared. Compiles against tests/fake_tensorrt in both its versions,
// and against real headers (then without the shape and registry tests, whose interfaces have more methods than are used).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../grid_sampler/grid_sampler.h"
#include "../multi_level_roi_align/multi_level_roi_align.h"
#include "../roi_align/roi_align.h"
#include "../tensorrt/plugin.h"

#if NV_TENSORRT_MAJOR >= 10
COURSE_API course::CreatorInterface* const* getCreators(int32_t& count);
#else
#define getCreators getPluginCreators
COURSE_API course::CreatorInterface* const* getPluginCreators(int32_t& count);
#endif
COURSE_API const char* course_plugins_register();

// --- the host in the device's place ---

static int32_t launches = 0;

int32_t course_roi_align_cuda(const void* features, const void* rois, void* output, int32_t type, int32_t roi_type,
                              int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t count, int32_t bins_y,
                              int32_t bins_x, double scale, int32_t ratio, int32_t mode, int32_t aligned, void*) {
    ++launches;
    if (roi_type != type) return kCourseBadArgument;
    return course_roi_align_host(features, rois, output, type, batch, channels, height, width, count, bins_y, bins_x, scale,
                                 ratio, mode, aligned);
}
int32_t course_multi_level_roi_align_cuda(const void* const* features, const void* rois, void* output, int32_t type,
                                          int32_t roi_type, int32_t levels, int32_t batch, int32_t channels,
                                          const int32_t* heights, const int32_t* widths, const double* scales, double finest,
                                          int32_t count, int32_t bins_y, int32_t bins_x, int32_t ratio, int32_t mode,
                                          int32_t aligned, void*) {
    ++launches;
    if (roi_type != type) return kCourseBadArgument;
    return course_multi_level_roi_align_host(features, rois, output, type, levels, batch, channels, heights, widths, scales,
                                             finest, count, bins_y, bins_x, ratio, mode, aligned);
}
int32_t course_grid_sampler_cuda(const void* input, const void* grid, void* output, int32_t type, int32_t, int32_t batch,
                                 int32_t channels, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
                                 int32_t interpolation, int32_t padding, int32_t align, void*) {
    ++launches;
    return course_grid_sampler_host(input, grid, output, type, batch, channels, height, width, out_height, out_width,
                                    interpolation, padding, align);
}

// --- memory that runs out ---

static int32_t allocations_left = -1;  // negative: as many as there are

void* operator new(size_t size) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) --allocations_left;
    if (void* memory = malloc(size ? size : 1)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

// --- TensorRT's side ---

namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using Descs = std::vector<PluginTensorDesc>;

int failures = 0;
void expect(bool good, const std::string& what) {
    if (good) return;
    ++failures;
    printf("FAILED: %s\n", what.c_str());
}

char last_message[1024];  // not a string: it is written where memory has run out
class RecordingLogger final : public nvinfer1::ILogger {
    void log(Severity, const char* message) noexcept override { snprintf(last_message, sizeof(last_message), "%s", message); }
};
// The last message starts with `begin` and has `words` in it.
bool said(const std::string& begin, const std::string& words) {
    const std::string message = last_message;
    return message.rfind(begin, 0) == 0 && message.find(words) != std::string::npos;
}

DynamicPluginTensorDesc bounded(const PluginTensorDesc& d) {
    DynamicPluginTensorDesc dynamic{};
    dynamic.desc = d;
    dynamic.min = dynamic.max = d.dims;
    return dynamic;
}
std::vector<DynamicPluginTensorDesc> bounded(const Descs& descs) {
    std::vector<DynamicPluginTensorDesc> all;
    for (const auto& d : descs) all.push_back(bounded(d));
    return all;
}

#if NV_TENSORRT_MAJOR >= 10
using CreatorType = nvinfer1::IPluginCreatorV3One;
#else
using CreatorType = nvinfer1::IPluginCreator;
#endif

CreatorType* creator(const std::string& name) {
    int32_t count = 0;
    auto* const* all = getCreators(count);
    for (int32_t i = 0; i < count; ++i) {
        auto* one = static_cast<CreatorType*>(all[i]);
        if (name == one->getPluginName()) return one;
    }
    return nullptr;
}

// A plugin of either interface; empty where a creator refused.
#if NV_TENSORRT_MAJOR >= 10
class Driven {
public:
    static Driven create(const std::string& type, const PluginFieldCollection* fields) {
        return Driven(creator(type)->createPlugin("node", fields, nvinfer1::TensorRTPhase::kBUILD));
    }
    // As TensorRT does it: the fields' bytes are written to the engine, and come back in a collection of its own.
    static Driven deserialize(const std::string& type, const std::string& data) {
        const PluginField field("course_state", data.data(), PluginFieldType::kUNKNOWN, int32_t(data.size()));
        PluginFieldCollection collection{};
        collection.nbFields = 1;
        collection.fields = &field;
        return Driven(creator(type)->createPlugin("node", &collection, nvinfer1::TensorRTPhase::kRUNTIME));
    }
    explicit operator bool() const { return bool(plugin_); }
    Driven clone() const { return Driven(plugin_->clone()); }
    std::string bytes() const {
        const PluginFieldCollection* fields = runtime().getFieldsToSerialize();
        if (fields->nbFields != 1 || fields->fields[0].type != PluginFieldType::kUNKNOWN) return "not one field of bytes";
        return std::string(static_cast<const char*>(fields->fields[0].data), size_t(fields->fields[0].length));
    }
    std::string type() const { return core().getPluginName(); }
    std::string version() const { return core().getPluginVersion(); }
    std::string name_space() const { return core().getPluginNamespace(); }
    bool supports(int32_t position, const Descs& tensors) const {
        return build().supportsFormatCombination(position, bounded(tensors).data(), int32_t(tensors.size()) - 1, 1);
    }
    DataType output_type(const std::vector<DataType>& inputs) const {
        DataType type{};
        expect(build().getOutputDataTypes(&type, 1, inputs.data(), int32_t(inputs.size())) == 0, "the output has a type");
        return type;
    }
    // Before a run, once when the profile is set up and once when shapes change; both doors must say the same.
    bool configure(const std::vector<DynamicPluginTensorDesc>& inputs) const {
        const DynamicPluginTensorDesc out{};
        const bool accepted = build().configurePlugin(inputs.data(), int32_t(inputs.size()), &out, 1) == 0;
        Descs now;
        for (const auto& input : inputs) now.push_back(input.desc);
        const bool known = runtime().onShapeChange(now.data(), int32_t(now.size()), &out.desc, 1) == 0;
        expect(known || !accepted, type() + ": a shape that fits a profile does not fit a run");
        return accepted;
    }
    int32_t enqueue(const Descs& in, const PluginTensorDesc& out, const void* const* inputs, void* const* outputs) const {
        return runtime().enqueue(in.data(), &out, inputs, outputs, nullptr, nullptr);
    }
    nvinfer1::DimsExprs shape(const std::vector<nvinfer1::DimsExprs>& inputs, nvinfer1::IExprBuilder& builder) const {
        nvinfer1::DimsExprs output{};
        if (build().getOutputShapes(inputs.data(), int32_t(inputs.size()), nullptr, 0, &output, 1, builder) != 0) output.nbDims = -1;
        return output;
    }
    void capabilities() const {
        using nvinfer1::PluginCapabilityType;
        const std::map<PluginCapabilityType, std::string> kinds = {{PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE"},
                                                                   {PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD"},
                                                                   {PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME"}};
        for (const auto& [capability, kind] : kinds) {
            auto* interface = plugin_->getCapabilityInterface(capability);
            expect(interface && kind == interface->getInterfaceInfo().kind, type() + " has the capability " + kind);
        }
        expect(!plugin_->getCapabilityInterface(static_cast<PluginCapabilityType>(9)), type() + " has no other capability");
        expect(build().getNbOutputs() == 1, type() + " has one output");
        const Driven attached(runtime().attachToContext(nullptr));
        expect(attached && attached.bytes() == bytes(), type() + " is cloned for a context");
        const PluginFieldCollection none{};
        expect(!Driven(creator(type())->createPlugin("node", &none, nvinfer1::TensorRTPhase::kRUNTIME)),
               type() + " does not come out of an engine without its state");
    }

private:
    explicit Driven(nvinfer1::IPluginV3* plugin) : plugin_(plugin) {}
    template <typename Capability>
    Capability& as(nvinfer1::PluginCapabilityType type) const {
        return *static_cast<Capability*>(plugin_->getCapabilityInterface(type));
    }
    nvinfer1::IPluginV3OneCore& core() const { return as<nvinfer1::IPluginV3OneCore>(nvinfer1::PluginCapabilityType::kCORE); }
    nvinfer1::IPluginV3OneBuild& build() const {
        return as<nvinfer1::IPluginV3OneBuild>(nvinfer1::PluginCapabilityType::kBUILD);
    }
    nvinfer1::IPluginV3OneRuntime& runtime() const {
        return as<nvinfer1::IPluginV3OneRuntime>(nvinfer1::PluginCapabilityType::kRUNTIME);
    }
    std::unique_ptr<nvinfer1::IPluginV3> plugin_;
};
#else
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
class Driven {
public:
    static Driven create(const std::string& type, const PluginFieldCollection* fields) {
        return Driven(creator(type)->createPlugin("node", fields));
    }
    static Driven deserialize(const std::string& type, const std::string& data) {
        return Driven(creator(type)->deserializePlugin("node", data.data(), data.size()));
    }
    explicit operator bool() const { return bool(plugin_); }
    Driven clone() const { return Driven(plugin_->clone()); }
    std::string bytes() const {
        std::string data(plugin_->getSerializationSize(), '\0');
        plugin_->serialize(&data[0]);
        return data;
    }
    std::string type() const { return plugin_->getPluginType(); }
    std::string version() const { return plugin_->getPluginVersion(); }
    std::string name_space() const { return plugin_->getPluginNamespace(); }
    bool supports(int32_t position, const Descs& tensors) const {
        return plugin_->supportsFormatCombination(position, tensors.data(), int32_t(tensors.size()) - 1, 1);
    }
    DataType output_type(const std::vector<DataType>& inputs) const {
        return plugin_->getOutputDataType(0, inputs.data(), int32_t(inputs.size()));
    }
    // It has no way to refuse but to say so.
    bool configure(const std::vector<DynamicPluginTensorDesc>& inputs) const {
        const DynamicPluginTensorDesc out{};
        last_message[0] = '\0';
        plugin_->configurePlugin(inputs.data(), int32_t(inputs.size()), &out, 1);
        return last_message[0] == '\0';
    }
    int32_t enqueue(const Descs& in, const PluginTensorDesc& out, const void* const* inputs, void* const* outputs) const {
        return plugin_->enqueue(in.data(), &out, inputs, outputs, nullptr, nullptr);
    }
    nvinfer1::DimsExprs shape(const std::vector<nvinfer1::DimsExprs>& inputs, nvinfer1::IExprBuilder& builder) const {
        return plugin_->getOutputDimensions(0, inputs.data(), int32_t(inputs.size()), builder);
    }
    void capabilities() const {
        expect(plugin_->getNbOutputs() == 1 && plugin_->initialize() == 0, type() + " has one output");
        expect(plugin_->getWorkspaceSize(nullptr, 0, nullptr, 0) == 0, type() + " needs no workspace");
        plugin_->setPluginNamespace("elsewhere");
        expect(name_space() == "elsewhere" && clone().name_space() == "elsewhere", type() + " keeps its namespace");
        plugin_->setPluginNamespace("");
    }

private:
    struct Destroy {
        void operator()(nvinfer1::IPluginV2DynamicExt* plugin) const { plugin->destroy(); }
    };
    explicit Driven(nvinfer1::IPluginV2* plugin) : plugin_(static_cast<nvinfer1::IPluginV2DynamicExt*>(plugin)) {}
    std::unique_ptr<nvinfer1::IPluginV2DynamicExt, Destroy> plugin_;
};
#endif

// Attributes with their values kept alive.
class Node {
public:
    Node& add(const char* name, std::vector<int32_t> values) { return add_as(name, values, PluginFieldType::kINT32); }
    Node& add(const char* name, std::vector<float> values) { return add_as(name, values, PluginFieldType::kFLOAT32); }
    Node& add(const char* name, std::vector<double> values) { return add_as(name, values, PluginFieldType::kFLOAT64); }
    Node& add64(const char* name, int64_t value) {
        return add_as(name, std::vector<int64_t>{value}, static_cast<PluginFieldType>(10));
    }
    Node& add(const char* name, const std::string& text) {
        return add_as(name, std::vector<char>(text.begin(), text.end()), PluginFieldType::kCHAR);
    }
    Driven create(const std::string& type) const {
        nvinfer1::PluginFieldCollection collection{};
        collection.nbFields = int32_t(fields_.size());
        collection.fields = fields_.data();
        last_message[0] = '\0';
        return Driven::create(type, &collection);
    }

private:
    template <typename T>
    Node& add_as(const char* name, const std::vector<T>& values, PluginFieldType type) {
        auto kept = std::make_shared<std::vector<T>>(values);
        kept_.push_back(kept);
        fields_.emplace_back(name, kept->data(), type, int32_t(values.size()));
        return *this;
    }
    std::vector<std::shared_ptr<void>> kept_;
    std::vector<PluginField> fields_;
};

Node roi_align_node() {
    return Node().add("output_height", std::vector<int32_t>{3}).add("output_width", std::vector<int32_t>{2})
        .add("spatial_scale", std::vector<float>{0.5f}).add("sampling_ratio", std::vector<int32_t>{2})
        .add("mode", std::string("max")).add("aligned", std::vector<int32_t>{0});
}
Node multi_level_node() {
    return Node().add("output_height", std::vector<int32_t>{2}).add("output_width", std::vector<int32_t>{2})
        .add("strides", std::vector<float>{4, 8}).add("finest_scale", std::vector<float>{10.0f});
}
Node grid_node() {
    return Node().add("interpolation_mode", std::vector<int32_t>{2}).add("padding_mode", std::vector<int32_t>{1})
        .add("align_corners", std::vector<int32_t>{1});
}
PluginTensorDesc desc(std::vector<int64_t> dims, DataType type) {
    PluginTensorDesc d{};
    d.dims.nbDims = int32_t(dims.size());
    for (size_t i = 0; i < dims.size(); ++i) d.dims.d[i] = static_cast<std::remove_reference_t<decltype(d.dims.d[0])>>(dims[i]);
    d.type = type;
    d.format = nvinfer1::TensorFormat::kLINEAR;
    return d;
}

std::vector<float> ramp(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = float((i * 37 + 11) % 101) / 50.0f - 1.0f;
    return values;
}

// Create, deserialize, clone: three plugins that must write the same bytes and give the same output.
void round_trip(const std::string& name, const Node& node, const Descs& in, const PluginTensorDesc& out,
                const std::vector<const void*>& inputs, const std::vector<float>& wanted) {
    Driven first = node.create(name);
    expect(bool(first), name + " is created: " + last_message);
    if (!first) return;
    first.capabilities();
    const std::string data = first.bytes();
    Driven second = Driven::deserialize(name, data);
    expect(bool(second), name + " is deserialized");
    if (!second) return;
    const Driven third = second.clone();
    expect(second.bytes() == data && third.bytes() == data, name + " round-trips");
    expect(third.type() == name && third.version() == "1" && third.name_space().empty(), name + " is who it is");
    {
        const Driven gone_first = std::move(first), gone_second = std::move(second);
    }  // the clone must not depend on what it was cloned from
    std::vector<float> output(wanted.size(), -7.0f);
    void* outputs[] = {output.data()};
    expect(third.configure(bounded(in)), name + " takes its inputs: " + last_message);
    expect(third.enqueue(in, out, inputs.data(), outputs) == 0, name + " runs: " + last_message);
    expect(output == wanted, name + " computes what the host loop computes");

    for (size_t length : {size_t(0), data.size() - 1}) {
        expect(!Driven::deserialize(name, data.substr(0, length)), name + " refuses truncated data");
        expect(said(name + ":", "build the engine again"), name + " says that the data is no plugin of this version");
    }
    std::string other = data;
    other[0] = static_cast<char>(other[0] ^ 1);
    expect(!Driven::deserialize(name, other), name + " refuses foreign data");
    other = data;
    for (size_t i = 40; i < data.size(); ++i) other[i] = '\x7f';  // after name, layout and size
    expect(!Driven::deserialize(name, other) && said(name + ":", "the attribute"), name + " checks what it reads back");
}

const DataType f = DataType::kFLOAT, h = DataType::kHALF, b = DataType::kINT8;

void round_trips() {
    const auto features = ramp(2 * 3 * 8 * 9);
    const std::vector<float> rois = {0, 1, 2, 11, 12, 1, 3, 3, 16, 9};
    std::vector<float> output(2 * 3 * 3 * 2);
    course_roi_align_host(features.data(), rois.data(), output.data(), kCourseFloat32, 2, 3, 8, 9, 2, 3, 2, 0.5, 2, 0, 0);
    round_trip("MMCVRoiAlign", roi_align_node(), {desc({2, 3, 8, 9}, f), desc({2, 5}, f)}, desc({2, 3, 3, 2}, f),
               {features.data(), rois.data()}, output);

    const auto coarse = ramp(2 * 3 * 4 * 5);
    std::vector<float> levels_output(2 * 3 * 2 * 2);
    const void* maps[] = {features.data(), coarse.data()};
    const int32_t heights[] = {8, 4}, widths[] = {9, 5};
    const double scales[] = {0.25, 0.125};
    course_multi_level_roi_align_host(maps, rois.data(), levels_output.data(), kCourseFloat32, 2, 2, 3, heights, widths, scales,
                                      10, 2, 2, 2, 0, 1, 1);
    round_trip("MultiLevelRoIAlign", multi_level_node(), {desc({2, 5}, f), desc({2, 3, 8, 9}, f), desc({2, 3, 4, 5}, f)},
               desc({2, 3, 2, 2}, f), {rois.data(), features.data(), coarse.data()}, levels_output);

    const auto grid = ramp(2 * 4 * 3 * 2);
    std::vector<float> sampled(2 * 3 * 4 * 3);
    course_grid_sampler_host(features.data(), grid.data(), sampled.data(), kCourseFloat32, 2, 3, 8, 9, 4, 3, 2, 1, 1);
    round_trip("grid_sampler", grid_node(), {desc({2, 3, 8, 9}, f), desc({2, 4, 3, 2}, f)}, desc({2, 3, 4, 3}, f),
               {features.data(), grid.data()}, sampled);
}

void refused(const std::string& type, const Node& node, const std::string& words) {
    expect(!node.create(type), type + " is refused: " + words);
    expect(said(type + ":", words),
           type + " should say '" + words + "', said '" + last_message + "'");
}

void attributes() {
    using Ints = std::vector<int32_t>;
    using Floats = std::vector<float>;
    refused("MMCVRoiAlign", Node(), "'output_height' is missing");
    refused("MMCVRoiAlign", Node().add("output_height", Ints{7}).add("output_width", Ints{7}), "'spatial_scale' is missing");
    const auto roi = [](Ints height, Floats scale, const std::string& mode, Ints ratio, Ints aligned) {
        return Node().add("output_height", height).add("output_width", Ints{7}).add("spatial_scale", scale).add("mode", mode)
            .add("sampling_ratio", ratio).add("aligned", aligned);
    };
    refused("MMCVRoiAlign", roi({0}, {1}, "avg", {0}, {1}), "'output_height' is 0");
    refused("MMCVRoiAlign", roi({7, 7}, {1}, "avg", {0}, {1}), "'output_height' is not one integer");
    refused("MMCVRoiAlign", roi({7}, {-1}, "avg", {0}, {1}), "'spatial_scale' is -1");
    refused("MMCVRoiAlign", roi({7}, {NAN}, "avg", {0}, {1}), "'spatial_scale'");
    refused("MMCVRoiAlign", roi({7}, {1}, "median", {0}, {1}), "'mode' is 'median'");
    refused("MMCVRoiAlign", roi({7}, {1}, "avg", {-1}, {1}), "'sampling_ratio' is -1");
    refused("MMCVRoiAlign", roi({7}, {1}, "avg", {0}, {2}), "'aligned' is 2");
    refused("MMCVRoiAlign", Node().add("output_height", Floats{7}), "'output_height' is not one integer");
    expect(bool(roi({7}, {1}, std::string("avg\0", 4), {0}, {1}).create("MMCVRoiAlign")), "a zero at a string's end is allowed");
    expect(bool(Node().add64("output_height", 7).add64("output_width", 7).add("spatial_scale", std::vector<double>{0.25})
                    .create("MMCVRoiAlign")),
           "64-bit attributes are allowed");
    refused("MMCVRoiAlign", Node().add64("output_height", int64_t(1) << 40), "beyond 32 bits");
    refused("MultiLevelRoIAlign", Node().add("output_height", Ints{7}).add("output_width", Ints{7}), "'strides' is missing");
    refused("MultiLevelRoIAlign",
            Node().add("output_height", Ints{7}).add("output_width", Ints{7}).add("strides", Floats(9, 4.0f)), "9 values");
    refused("MultiLevelRoIAlign",
            Node().add("output_height", Ints{7}).add("output_width", Ints{7}).add("strides", Floats{4, 0}), "'strides' is 0");
    refused("grid_sampler", Node().add("interpolation_mode", Ints{3}), "'interpolation_mode' is 3");
    refused("grid_sampler", Node().add("padding_mode", Ints{-1}), "'padding_mode' is -1");
    refused("grid_sampler", Node().add("align_corners", Floats{1}), "'align_corners' is not one integer");
    expect(bool(Node().create("grid_sampler")), "grid_sampler has defaults for all");
}

void formats() {
    struct Case {
        const char* name;
        Node node;
        std::vector<DataType> types;  // inputs, then the output
        bool supported;
    };
    const Case cases[] = {
        {"MMCVRoiAlign", roi_align_node(), {f, f, f}, true},  {"MMCVRoiAlign", roi_align_node(), {h, f, h}, true},
        {"MMCVRoiAlign", roi_align_node(), {h, h, h}, true},  {"MMCVRoiAlign", roi_align_node(), {f, h, f}, false},
        {"MMCVRoiAlign", roi_align_node(), {h, f, f}, false}, {"MMCVRoiAlign", roi_align_node(), {b, b, b}, false},
        {"MultiLevelRoIAlign", multi_level_node(), {f, h, h, h}, true},
        {"MultiLevelRoIAlign", multi_level_node(), {h, h, h, h}, true},
        {"MultiLevelRoIAlign", multi_level_node(), {h, f, f, f}, false},
        {"MultiLevelRoIAlign", multi_level_node(), {f, f, h, f}, false},
        {"MultiLevelRoIAlign", multi_level_node(), {f, b, b, b}, false},
        {"grid_sampler", grid_node(), {h, f, h}, true},       {"grid_sampler", grid_node(), {f, h, f}, false},
    };
    int32_t number = 0;
    for (const Case& c : cases) {
        const Driven plugin = c.node.create(c.name);
        Descs tensors;
        for (DataType type : c.types) tensors.push_back(desc({1}, type));
        bool all = true;
        for (int32_t position = 0; position < int32_t(tensors.size()); ++position) all &= plugin.supports(position, tensors);
        expect(all == c.supported, std::string(c.name) + " format case " + std::to_string(number++));
        if (c.supported) {
            const std::vector<DataType> inputs(c.types.begin(), c.types.end() - 1);
            expect(plugin.output_type(inputs) == c.types.back(), std::string(c.name) + " output type");
            tensors[0].format = nvinfer1::TensorFormat::kCHW2;
            expect(!plugin.supports(0, tensors), std::string(c.name) + " wants linear");
        }
    }
}

// What a kernel would read or write beyond a buffer for.
struct Misfit {
    const char* name;
    Node node;
    std::vector<std::vector<int64_t>> inputs;
    const char* words;
};
std::vector<Misfit> misfits() {
    const char *roi = "MMCVRoiAlign", *levels = "MultiLevelRoIAlign", *grid = "grid_sampler";
    return {
        {roi, roi_align_node(), {{2, 3, 8, 9}, {6, 4}}, "the second dimension of 'rois' (batch index, x1, y1, x2, y2) is 4, not 5"},
        {roi, roi_align_node(), {{2, 3, 8, 9}, {6, 6}}, "is 6, not 5"},
        {roi, roi_align_node(), {{2, 3, 8, 9}, {6, 5, 1}}, "'rois' has 3 dimensions, not 2"},
        {roi, roi_align_node(), {{3, 8, 9}, {6, 5}}, "'features' has 3 dimensions, not 4"},
        {levels, multi_level_node(), {{6, 4}, {2, 3, 8, 9}, {2, 3, 4, 5}}, "is 4, not 5"},
        {levels, multi_level_node(), {{6, 5}, {2, 3, 8, 9}, {2, 2, 4, 5}}, "the number of channels of level 1 is 2, not 3"},
        {levels, multi_level_node(), {{6, 5}, {2, 3, 8, 9}, {1, 3, 4, 5}}, "the batch of level 1 is 1, not 2"},
        {levels, multi_level_node(), {{6, 5}, {2, 3, 8, 9}, {3, 4, 5}}, "'level 1' has 3 dimensions, not 4"},
        {grid, grid_node(), {{2, 3, 8, 9}, {1, 4, 3, 2}}, "the batch of 'grid' is 1, not 2"},
        {grid, grid_node(), {{2, 3, 8, 9}, {2, 4, 3, 3}}, "the last dimension of 'grid' (x, y) is 3, not 2"},
        {grid, grid_node(), {{2, 3, 8, 9}, {2, 4, 3}}, "'grid' has 3 dimensions, not 4"},
        {grid, grid_node(), {{1, 1, 4, 4, 4}, {1, 4, 4, 4, 3}}, "volume (5-D)"},
    };
}

Descs descs(const std::vector<std::vector<int64_t>>& shapes) {
    Descs all;
    for (const auto& shape : shapes) all.push_back(desc(shape, f));
    return all;
}

void misfits_are_refused() {
    for (const Misfit& m : misfits()) {
        const std::string begin = std::string(m.name) + ":";
        const Driven plugin = m.node.create(m.name);
        const Descs in = descs(m.inputs);
        expect(!plugin.configure(bounded(in)) && said(begin, m.words), begin + " configured with '" + m.words + "', said " + last_message);
        last_message[0] = '\0';
        const std::vector<const void*> nothing(in.size(), nullptr);
        void* outputs[] = {nullptr};
        launches = 0;
        expect(plugin.enqueue(in, desc({6, 3, 2, 2}, f), nothing.data(), outputs) == kCourseBadArgument && launches == 0 &&
                   said(begin, m.words),
               begin + " ran with '" + m.words + "', said " + last_message);
        // What a profile leaves open is nobody's fault yet, and is known where its bounds meet.
        auto open = bounded(in);
        for (auto& tensor : open)
            for (int32_t d = 0; d < tensor.desc.dims.nbDims; ++d) tensor.desc.dims.d[d] = -1;
        const bool ranks_fit = std::string(m.words).find("dimensions, not") == std::string::npos && in[0].dims.nbDims < 5;
        expect(!plugin.configure(open), begin + " bounds that meet are sizes");
        for (auto& tensor : open)
            for (int32_t d = 0; d < tensor.desc.dims.nbDims; ++d) tensor.max.d[d] = 1000;
        expect(plugin.configure(open) == ranks_fit, begin + " open sizes are accepted, ranks are not open: " + m.words);
    }

    const auto values = ramp(2 * 3 * 8 * 9);
    const std::vector<float> rois(10, 1.0f);
    std::vector<float> output(100, -7.0f);
    const void* inputs[] = {values.data(), rois.data()};
    void* outputs[] = {output.data()};
    const Driven roi = roi_align_node().create("MMCVRoiAlign");
    struct Case {
        PluginTensorDesc features, rois, output;
        const char* words;
    };
    PluginTensorDesc packed = desc({2, 3, 8, 9}, f);
    packed.format = nvinfer1::TensorFormat::kCHW2;
    const PluginTensorDesc good = desc({2, 3, 8, 9}, f), two = desc({2, 5}, f), wanted = desc({2, 3, 3, 2}, f);
    for (const Case& c : {Case{good, desc({2, 5}, h), wanted, "types and formats"},
                          Case{desc({2, 3, 8, 9}, h), two, wanted, "types and formats"},
                          Case{packed, two, wanted, "types and formats"},
                          Case{good, two, desc({1, 3, 3, 2}, f), "dimension 0 of the output is 1, not 2"},
                          Case{good, two, desc({2, 3, 3, 1}, f), "dimension 3 of the output is 1, not 2"},
                          Case{good, two, desc({2, 3, 6}, f), "'output' has 3 dimensions, not 4"}}) {
        launches = 0;
        expect(roi.enqueue({c.features, c.rois}, c.output, inputs, outputs) == kCourseBadArgument && launches == 0 &&
                   said("MMCVRoiAlign:", c.words),
               std::string("MMCVRoiAlign ran with '") + c.words + "', said " + last_message);
    }
    expect(output == std::vector<float>(100, -7.0f), "nothing is written by a run that is refused");
    const void* missing[] = {nullptr, rois.data()};
    expect(roi.enqueue({good, two}, wanted, missing, outputs) == kCourseBadArgument && said("MMCVRoiAlign:", "CUDA error 1"),
           "a launch that fails is refused");
#if NV_TENSORRT_MAJOR >= 10
    const int64_t huge = int64_t(1) << 31;
    expect(!roi.configure(bounded(Descs{desc({2, 3, 8, 9}, f), desc({huge, 5}, f)})) && said("MMCVRoiAlign:", "exceeds 2^31"),
           "a size of more than 32 bits");
#endif
}

// Each function that TensorRT calls, with one allocation less to go than it needs, from none on. One that lets an exception
// out ends this program: all of them are noexcept.
void memory_runs_out() {
    const struct {
        const char* name;
        Node node;
        std::vector<std::vector<int64_t>> inputs;
    } cases[] = {{"MMCVRoiAlign", roi_align_node(), {{2, 3, 8, 9}, {6, 4}}},
                 {"MultiLevelRoIAlign", multi_level_node(), {{6, 5}, {2, 3, 8, 9}, {1, 3, 4, 5}}},
                 {"grid_sampler", grid_node(), {{2, 3, 8, 9}, {1, 4, 3, 2}}}};
    for (const auto& c : cases) {
        const Driven plugin = c.node.create(c.name);
        const std::string data = plugin.bytes();
        const Descs in = descs(c.inputs);
        const auto dynamic = bounded(in);
        const PluginTensorDesc out = desc({6, 3, 2, 2}, f);
        const void* inputs[] = {nullptr, nullptr, nullptr};
        void* outputs[] = {nullptr};
        const std::string name = c.name;
        const std::vector<std::pair<const char*, std::function<bool()>>> calls = {
            {"create", [&] { return bool(c.node.create(name)); }},
            {"refuse to create", [&] { return !Node().add("output_height", name).add("padding_mode", name).create(name); }},
            {"deserialize", [&] { return bool(Driven::deserialize(name, data)); }},
            {"refuse to deserialize", [&] { return !Driven::deserialize(name, name); }},
            {"clone", [&] { return bool(plugin.clone()); }},
            {"serialize", [&] { return plugin.bytes() == data; }},
            {"configure", [&] { return !plugin.configure(dynamic); }},
            {"enqueue", [&] { return plugin.enqueue(in, out, inputs, outputs) != 0; }},
        };
        for (const auto& [what, call] : calls) {
            int32_t enough = 0;
            for (bool done = false; !done && enough < 200; ++enough) {
                allocations_left = enough;
                bool good = false;
                try {
                    good = call();
                } catch (const std::bad_alloc&) {  // this test's own strings and vectors
                }
                done = good && allocations_left > 0;
                allocations_left = -1;
            }
            expect(enough < 200, name + " can " + what + " with enough memory");
        }
    }
}

#ifdef COURSE_FAKE_TENSORRT

class Constant final : public nvinfer1::IDimensionExpr {
public:
    bool isConstant() const noexcept override { return value >= 0; }
    int64_t getConstantValue() const noexcept override { return value; }
    int64_t value = -1;
};

// -1 is a dimension that is not known yet.
class Builder final : public nvinfer1::IExprBuilder {
public:
    const nvinfer1::IDimensionExpr* constant(int64_t value) noexcept override {
        kept_[used_].value = value;
        return &kept_[used_++];
    }
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                              const nvinfer1::IDimensionExpr&) noexcept override {
        return nullptr;
    }

private:
    Constant kept_[64];
    size_t used_ = 0;
};

std::vector<int64_t> shape(const Driven& plugin, const std::vector<std::vector<int64_t>>& inputs) {
    Builder builder;
    std::vector<nvinfer1::DimsExprs> dims(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
        dims[i].nbDims = int32_t(inputs[i].size());
        for (size_t d = 0; d < inputs[i].size(); ++d) dims[i].d[d] = builder.constant(inputs[i][d]);
    }
    last_message[0] = '\0';
    const auto output = plugin.shape(dims, builder);
    std::vector<int64_t> result;
    for (int32_t d = 0; d < output.nbDims; ++d) result.push_back(output.d[d]->getConstantValue());
    return result;
}

void shapes() {
    using Shape = std::vector<int64_t>;
    const Driven roi = roi_align_node().create("MMCVRoiAlign"), levels = multi_level_node().create("MultiLevelRoIAlign"),
                 grid = grid_node().create("grid_sampler");
    expect(shape(roi, {{2, 256, 200, 304}, {1000, 5}}) == Shape{1000, 256, 3, 2}, "MMCVRoiAlign shape");
    expect(shape(roi, {{-1, 256, -1, -1}, {-1, 5}}) == Shape{-1, 256, 3, 2}, "MMCVRoiAlign shape, as far as it is known");
    expect(shape(roi, {{-1, -1, -1, -1}, {-1, -1}}) == Shape{-1, -1, 3, 2}, "MMCVRoiAlign shape, where nothing is known");
    expect(shape(levels, {{100, 5}, {2, 256, 200, 304}, {2, 256, 100, 152}}) == Shape{100, 256, 2, 2}, "MultiLevel shape");
    expect(shape(levels, {{-1, 5}, {-1, 256, -1, -1}, {2, 256, -1, -1}}) == Shape{-1, 256, 2, 2}, "MultiLevel, partly known");
    expect(shape(grid, {{100, 1, 28, 28}, {100, 800, 1216, 2}}) == Shape{100, 1, 800, 1216}, "grid_sampler shape");
    expect(shape(roi, {{2, 256, 200, 304}}).empty() && said("MMCVRoiAlign:", "has 1 inputs, not 2"), "number of inputs");
    expect(shape(levels, {{100, 5}, {2, 256, 200, 304}}).empty() && said("MultiLevelRoIAlign:", "has 2 inputs, not 3"),
           "a map for each stride");
    for (const Misfit& m : misfits())
        expect(shape(m.node.create(m.name), m.inputs).empty() && said(std::string(m.name) + ":", m.words),
               std::string("in the network: '") + m.words + "', said " + last_message);
}

// --- the registry ---

// Somebody else's creator.
#if NV_TENSORRT_MAJOR >= 10
class Other final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit Other(const char* name) : name_(name) {}
    const char* getPluginName() const noexcept override { return name_; }
    const char* getPluginVersion() const noexcept override { return "1"; }
    const char* getPluginNamespace() const noexcept override { return ""; }
    const PluginFieldCollection* getFieldNames() noexcept override { return nullptr; }
    nvinfer1::IPluginV3* createPlugin(const char*, const PluginFieldCollection*, nvinfer1::TensorRTPhase) noexcept override {
        return nullptr;
    }

private:
    const char* name_;
};
#else
class Other final : public nvinfer1::IPluginCreator {
public:
    explicit Other(const char* name) : name_(name) {}
    const char* getPluginName() const noexcept override { return name_; }
    const char* getPluginVersion() const noexcept override { return "1"; }
    const char* getPluginNamespace() const noexcept override { return ""; }
    void setPluginNamespace(const char*) noexcept override {}
    const PluginFieldCollection* getFieldNames() noexcept override { return nullptr; }
    nvinfer1::IPluginV2* createPlugin(const char*, const PluginFieldCollection*) noexcept override { return nullptr; }
    nvinfer1::IPluginV2* deserializePlugin(const char*, const void*, size_t) noexcept override { return nullptr; }

private:
    const char* name_;
};
#endif

// One name, version and namespace, one creator: the first.
class Registry final : public nvinfer1::IPluginRegistry {
public:
    bool registerCreator(course::CreatorInterface& c, const char* name_space) noexcept override {
        auto& one = static_cast<CreatorType&>(c);
        return accepts && held.emplace(key(one.getPluginName(), one.getPluginVersion(), name_space), &c).second;
    }
#if NV_TENSORRT_MAJOR >= 10
    course::CreatorInterface* getCreator(const char* name, const char* version, const char* name_space) noexcept override {
#else
    course::CreatorInterface* getPluginCreator(const char* name, const char* version, const char* name_space) noexcept override {
#endif
        const auto found = held.find(key(name, version, name_space));
        return found == held.end() ? nullptr : found->second;
    }
    static std::string key(const std::string& name, const std::string& version, const std::string& name_space) {
        return name + "/" + version + "/" + name_space;
    }
    std::map<std::string, course::CreatorInterface*> held;
    bool accepts = true;
};
Registry* registry = nullptr;

void registration() {
    const std::string all = "MMCVRoiAlign registered\ngrid_sampler registered\nMultiLevelRoIAlign registered\n";
    Registry empty;
    registry = &empty;
    expect(course_plugins_register() == all, "an empty registry takes all");
    expect(empty.held.size() == 3, "and no more");
    for (const char* name : {"MMCVRoiAlign", "grid_sampler", "MultiLevelRoIAlign"})
        expect(empty.held.count(std::string(name) + "/1/") == 1, std::string(name) + " is found under version 1, no namespace");
    expect(course_plugins_register() == std::string("MMCVRoiAlign present\ngrid_sampler present\nMultiLevelRoIAlign present\n"),
           "a second time, all are there");

    // What init_libnvinfer_plugins leaves behind, among others.
    Registry nvidia;
    registry = &nvidia;
    Other scatter("ScatterND"), nms("EfficientNMS_ONNX_TRT");
    nvidia.registerCreator(scatter, "");
    nvidia.registerCreator(nms, "");
    expect(course_plugins_register() == all, "beside NVIDIA's own, all are taken");
    expect(nvidia.held["ScatterND/1/"] == &scatter && nvidia.held.size() == 5, "and NVIDIA's own stay");

    // mmcv has a plugin library too.
    Registry mmcv;
    registry = &mmcv;
    Other theirs("MMCVRoiAlign");
    mmcv.registerCreator(theirs, "");
    expect(course_plugins_register() ==
               std::string("MMCVRoiAlign present\ngrid_sampler registered\nMultiLevelRoIAlign registered\n"),
           "a name that is taken is no error");
    expect(mmcv.held["MMCVRoiAlign/1/"] == &theirs, "and stays with who has it");

    const std::string none = "MMCVRoiAlign refused\ngrid_sampler refused\nMultiLevelRoIAlign refused\n";
    Registry closed;
    closed.accepts = false;
    registry = &closed;
    expect(course_plugins_register() == none, "a registry that takes nothing");
    registry = nullptr;
    expect(course_plugins_register() == none, "no registry");
}

#endif

void field_names() {
    const std::map<std::string, std::vector<std::string>> wanted = {
        {"MMCVRoiAlign", {"output_height", "output_width", "spatial_scale", "sampling_ratio", "mode", "aligned"}},
        {"grid_sampler", {"interpolation_mode", "padding_mode", "align_corners"}},
        {"MultiLevelRoIAlign",
         {"output_height", "output_width", "strides", "finest_scale", "sampling_ratio", "mode", "aligned"}}};
    int32_t count = 0;
    getCreators(count);
    expect(count == int32_t(wanted.size()), "as many creators as operators");
    for (const auto& [name, names] : wanted) {
        auto* found = creator(name);
        expect(found != nullptr, name + " has a creator");
        if (!found) continue;
        // The parser reads from a node those attributes only that the creator names.
        const auto* fields = found->getFieldNames();
        std::vector<std::string> got;
        for (int32_t i = 0; i < fields->nbFields; ++i) got.push_back(fields->fields[i].name);
        expect(got == names, name + " names its attributes");
    }
}

}  // namespace

extern "C" nvinfer1::ILogger* getLogger() noexcept {
    static RecordingLogger logger;
    return &logger;
}
#ifdef COURSE_FAKE_TENSORRT
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return registry; }
#else
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return nullptr; }
#endif

int main() {
    field_names();
    attributes();
    round_trips();
    formats();
    misfits_are_refused();
    memory_runs_out();
#ifdef COURSE_FAKE_TENSORRT
    shapes();
    registration();
#endif
    printf(failures ? "%d failures\n" : "plugin classes: all as expected\n", failures);
    return failures > 100 ? 100 : failures;
}
