// Drives the plugin classes as TensorRT would: creators looked up by name, attributes validated, shapes asked for, formats
// chosen, serialized and read back, cloned, run. The CUDA entry points are replaced by the host loops, so the "device"
// pointers are ordinary ones and what comes out can be compared. Compiles against tests/fake_tensorrt, and against real
// headers (then without the shape and registry tests, whose interfaces differ between versions).
#include <math.h>
#include <stdio.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../grid_sampler/grid_sampler.h"
#include "../multi_level_roi_align/multi_level_roi_align.h"
#include "../non_max_suppression/non_max_suppression.h"
#include "../roi_align/roi_align.h"
#include "../scatter_nd/scatter_nd.h"
#include "../tensorrt/plugin.h"

COURSE_API nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count);
COURSE_API int32_t course_plugins_register();

// --- the host in the device's place ---

int32_t course_roi_align_cuda(const void* features, const void* rois, void* output, int32_t type, int32_t roi_type,
                              int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t count, int32_t bins_y,
                              int32_t bins_x, double scale, int32_t ratio, int32_t mode, int32_t aligned, void*) {
    if (roi_type != type) return kCourseBadArgument;
    return course_roi_align_host(features, rois, output, type, batch, channels, height, width, count, bins_y, bins_x, scale,
                                 ratio, mode, aligned);
}
int32_t course_multi_level_roi_align_cuda(const void* const* features, const void* rois, void* output, int32_t type,
                                          int32_t roi_type, int32_t levels, int32_t batch, int32_t channels,
                                          const int32_t* heights, const int32_t* widths, const double* scales, double finest,
                                          int32_t count, int32_t bins_y, int32_t bins_x, int32_t ratio, int32_t mode,
                                          int32_t aligned, void*) {
    if (roi_type != type) return kCourseBadArgument;
    return course_multi_level_roi_align_host(features, rois, output, type, levels, batch, channels, heights, widths, scales,
                                             finest, count, bins_y, bins_x, ratio, mode, aligned);
}
int32_t course_grid_sampler_cuda(const void* input, const void* grid, void* output, int32_t type, int32_t, int32_t batch,
                                 int32_t channels, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
                                 int32_t interpolation, int32_t padding, int32_t align, void*) {
    return course_grid_sampler_host(input, grid, output, type, batch, channels, height, width, out_height, out_width,
                                    interpolation, padding, align);
}
int32_t course_non_max_suppression_cuda(const void* boxes, const void* scores, int32_t* selected, void*, int32_t type,
                                        int32_t batch, int32_t classes, int32_t count, int64_t limit, double iou,
                                        double threshold, int32_t center, int32_t offset, void*) {
    const int64_t kept = limit < count ? limit : count;
    std::vector<int64_t> rows(size_t(batch * classes * kept * 3), -1);
    int64_t written = 0;
    const int32_t status = course_non_max_suppression_host(boxes, scores, rows.data(), &written, type, batch, classes, count,
                                                           limit, iou, threshold, center, offset);
    for (size_t i = 0; i < rows.size(); ++i) selected[i] = int32_t(rows[i]);
    return status;
}
size_t course_non_max_suppression_workspace(int32_t batch, int32_t classes, int32_t count, int64_t) {
    return size_t(batch) * size_t(classes) * size_t(count);
}
int32_t course_scatter_nd_cuda(const void* data, const void* indices, const void* updates, void* output, int32_t type,
                               int32_t index_type, const int64_t* dims, int32_t rank, int64_t rows, int32_t depth, void*) {
    return course_scatter_nd_host(data, indices, updates, output, type, index_type, dims, rank, rows, depth);
}

// --- TensorRT's side ---

namespace {

using nvinfer1::DataType;
using nvinfer1::IPluginV2DynamicExt;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

int failures = 0;
void expect(bool good, const std::string& what) {
    if (good) return;
    ++failures;
    printf("FAILED: %s\n", what.c_str());
}

std::string last_message;
class RecordingLogger final : public nvinfer1::ILogger {
    void log(Severity, const char* message) noexcept override { last_message = message; }
};

struct Destroy {
    void operator()(IPluginV2DynamicExt* plugin) const { plugin->destroy(); }
};
using Owned = std::unique_ptr<IPluginV2DynamicExt, Destroy>;
Owned owned(nvinfer1::IPluginV2* plugin) { return Owned(static_cast<IPluginV2DynamicExt*>(plugin)); }

nvinfer1::IPluginCreator* creator(const std::string& name) {
    int32_t count = 0;
    auto* const* all = getPluginCreators(count);
    for (int32_t i = 0; i < count; ++i)
        if (name == all[i]->getPluginName()) return all[i];
    return nullptr;
}

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
    Owned create(const std::string& type) const {
        nvinfer1::PluginFieldCollection collection{};
        collection.nbFields = int32_t(fields_.size());
        collection.fields = fields_.data();
        last_message.clear();
        return owned(creator(type)->createPlugin("node", &collection));
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
Node nms_node() {
    return Node().add("max_output_boxes_per_class", std::vector<int32_t>{4}).add("iou_threshold", std::vector<float>{0.5f})
        .add("score_threshold", std::vector<float>{0.1f});
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

std::string bytes(const IPluginV2DynamicExt& plugin) {
    std::string data(plugin.getSerializationSize(), '\0');
    plugin.serialize(&data[0]);
    return data;
}

// Serialize, deserialize, clone: three plugins that must write the same bytes and give the same output.
void round_trip(const std::string& name, Owned first, const std::vector<PluginTensorDesc>& in, const PluginTensorDesc& out,
                const std::vector<const void*>& inputs, size_t output_bytes, const std::vector<char>& wanted) {
    expect(bool(first), name + " is created: " + last_message);
    if (!first) return;
    const std::string data = bytes(*first);
    Owned second = owned(creator(name)->deserializePlugin("node", data.data(), data.size()));
    expect(bool(second), name + " is deserialized");
    if (!second) return;
    first->setPluginNamespace("somewhere");
    second->setPluginNamespace("elsewhere");
    Owned third(second->clone());
    expect(bytes(*second) == data && bytes(*third) == data, name + " round-trips");
    expect(std::string(first->getPluginNamespace()) == "somewhere", name + " namespace");
    expect(std::string(third->getPluginNamespace()) == "elsewhere", name + " namespace of the clone");
    expect(std::string(third->getPluginType()) == name && std::string(third->getPluginVersion()) == "1", name + " type");
    first.reset();
    second.reset();  // the clone must not depend on what it was cloned from
    std::vector<char> output(output_bytes, 0x5a);
    std::vector<char> workspace(third->getWorkspaceSize(in.data(), int32_t(in.size()), &out, 1));
    void* outputs[] = {output.data()};
    expect(third->enqueue(in.data(), &out, inputs.data(), outputs, workspace.data(), nullptr) == 0, name + " runs");
    expect(output == wanted, name + " computes what the host loop computes");

    for (size_t length : {size_t(0), data.size() - 1})
        expect(!owned(creator(name)->deserializePlugin("node", data.data(), length)), name + " refuses truncated data");
    expect(last_message.rfind(name + ":", 0) == 0 && last_message.find("build the engine again") != std::string::npos,
           name + " says that the data is no plugin of this version: " + last_message);
    std::string other = data;
    other[0] = static_cast<char>(other[0] ^ 1);
    expect(!owned(creator(name)->deserializePlugin("node", other.data(), other.size())), name + " refuses foreign data");
}

template <typename T>
std::vector<char> raw(const std::vector<T>& values) {
    const char* begin = reinterpret_cast<const char*>(values.data());
    return std::vector<char>(begin, begin + values.size() * sizeof(T));
}

void round_trips() {
    const auto features = ramp(2 * 3 * 8 * 9);
    const std::vector<float> rois = {0, 1, 2, 11, 12, 1, 3, 3, 16, 9};
    std::vector<float> output(2 * 3 * 3 * 2);
    course_roi_align_host(features.data(), rois.data(), output.data(), kCourseFloat32, 2, 3, 8, 9, 2, 3, 2, 0.5, 2, 0, 0);
    round_trip("MMCVRoiAlign", roi_align_node().create("MMCVRoiAlign"),
               {desc({2, 3, 8, 9}, DataType::kFLOAT), desc({2, 5}, DataType::kFLOAT)}, desc({2, 3, 3, 2}, DataType::kFLOAT),
               {features.data(), rois.data()}, output.size() * 4, raw(output));

    const auto coarse = ramp(2 * 3 * 4 * 5);
    std::vector<float> levels_output(2 * 3 * 2 * 2);
    const void* maps[] = {features.data(), coarse.data()};
    const int32_t heights[] = {8, 4}, widths[] = {9, 5};
    const double scales[] = {0.25, 0.125};
    course_multi_level_roi_align_host(maps, rois.data(), levels_output.data(), kCourseFloat32, 2, 2, 3, heights, widths, scales,
                                      10, 2, 2, 2, 0, 1, 1);
    round_trip("MultiLevelRoIAlign", multi_level_node().create("MultiLevelRoIAlign"),
               {desc({2, 5}, DataType::kFLOAT), desc({2, 3, 8, 9}, DataType::kFLOAT), desc({2, 3, 4, 5}, DataType::kFLOAT)},
               desc({2, 3, 2, 2}, DataType::kFLOAT), {rois.data(), features.data(), coarse.data()}, levels_output.size() * 4,
               raw(levels_output));

    const auto grid = ramp(2 * 4 * 3 * 2);
    std::vector<float> sampled(2 * 3 * 4 * 3);
    course_grid_sampler_host(features.data(), grid.data(), sampled.data(), kCourseFloat32, 2, 3, 8, 9, 4, 3, 2, 1, 1);
    round_trip("grid_sampler", grid_node().create("grid_sampler"),
               {desc({2, 3, 8, 9}, DataType::kFLOAT), desc({2, 4, 3, 2}, DataType::kFLOAT)},
               desc({2, 3, 4, 3}, DataType::kFLOAT), {features.data(), grid.data()}, sampled.size() * 4, raw(sampled));

    const std::vector<float> boxes = {0, 0, 10, 10, 0, 1, 10, 11, 50, 50, 60, 60}, scores = {0.5f, 0.9f, 0.05f};
    round_trip("NonMaxSuppression", nms_node().create("NonMaxSuppression"),
               {desc({1, 3, 4}, DataType::kFLOAT), desc({1, 1, 3}, DataType::kFLOAT)}, desc({3, 3}, DataType::kINT32),
               {boxes.data(), scores.data()}, 9 * 4, raw(std::vector<int32_t>{0, 0, 1, -1, -1, -1, -1, -1, -1}));

    const std::vector<float> data = ramp(6), updates = {7, 8};
    const std::vector<int32_t> indices = {2};
    std::vector<float> scattered = data;
    scattered[4] = 7;
    scattered[5] = 8;
    round_trip("ScatterND", Node().create("ScatterND"),
               {desc({3, 2}, DataType::kFLOAT), desc({1, 1}, DataType::kINT32), desc({1, 2}, DataType::kFLOAT)},
               desc({3, 2}, DataType::kFLOAT), {data.data(), indices.data(), updates.data()}, 24, raw(scattered));
}

void refused(const std::string& type, const Node& node, const std::string& words) {
    expect(!node.create(type), type + " is refused: " + words);
    expect(last_message.rfind(type + ":", 0) == 0 && last_message.find(words) != std::string::npos,
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
    refused("NonMaxSuppression", Node().add("iou_threshold", Floats{0.5f}), "'max_output_boxes_per_class' is missing");
    refused("NonMaxSuppression", Node().add("max_output_boxes_per_class", Ints{0}).add("iou_threshold", Floats{0.5f}),
            "'max_output_boxes_per_class' is 0");
    refused("NonMaxSuppression", Node().add("max_output_boxes_per_class", Ints{9}).add("iou_threshold", Floats{1.5f}),
            "'iou_threshold' is 1.5");
    refused("NonMaxSuppression", Node().add("max_output_boxes_per_class", Ints{9}), "'iou_threshold' is missing");
    refused("ScatterND", Node().add("reduction", std::string("add")), "'reduction' is 'add'");
}

void formats() {
    const DataType f = DataType::kFLOAT, h = DataType::kHALF, i = DataType::kINT32, b = DataType::kINT8;
    struct Case {
        const char* name;
        Node node;
        std::vector<DataType> types;  // inputs, then the output
        bool supported;
    };
    const Case cases[] = {
        {"MMCVRoiAlign", roi_align_node(), {f, f, f}, true},       {"MMCVRoiAlign", roi_align_node(), {h, f, h}, true},
        {"MMCVRoiAlign", roi_align_node(), {h, h, h}, true},       {"MMCVRoiAlign", roi_align_node(), {f, h, f}, false},
        {"MMCVRoiAlign", roi_align_node(), {h, f, f}, false},      {"MMCVRoiAlign", roi_align_node(), {b, b, b}, false},
        {"MultiLevelRoIAlign", multi_level_node(), {f, h, h, h}, true},
        {"MultiLevelRoIAlign", multi_level_node(), {h, h, h, h}, true},
        {"MultiLevelRoIAlign", multi_level_node(), {h, f, f, f}, false},
        {"MultiLevelRoIAlign", multi_level_node(), {f, f, h, f}, false},
        {"grid_sampler", grid_node(), {h, f, h}, true},            {"grid_sampler", grid_node(), {f, h, f}, false},
        {"NonMaxSuppression", nms_node(), {f, f, i}, true},        {"NonMaxSuppression", nms_node(), {h, h, i}, true},
        {"NonMaxSuppression", nms_node(), {f, h, i}, false},       {"NonMaxSuppression", nms_node(), {f, f, f}, false},
        {"ScatterND", Node(), {i, i, i, i}, true},                 {"ScatterND", Node(), {h, i, h, h}, true},
        {"ScatterND", Node(), {f, i, h, f}, false},                {"ScatterND", Node(), {f, f, f, f}, false},
    };
    int32_t number = 0;
    for (const Case& c : cases) {
        Owned plugin = c.node.create(c.name);
        std::vector<PluginTensorDesc> tensors;
        for (DataType type : c.types) tensors.push_back(desc({1}, type));
        const int32_t inputs = int32_t(c.types.size()) - 1;
        bool all = true;
        for (int32_t position = 0; position <= inputs; ++position)
            all &= plugin->supportsFormatCombination(position, tensors.data(), inputs, 1);
        expect(all == c.supported, std::string(c.name) + " format case " + std::to_string(number++));
        if (c.supported) {
            expect(plugin->getOutputDataType(0, c.types.data(), inputs) == c.types.back(), std::string(c.name) + " output type");
            tensors[0].format = nvinfer1::TensorFormat::kCHW2;
            expect(!plugin->supportsFormatCombination(0, tensors.data(), inputs, 1), std::string(c.name) + " wants linear");
        }
    }
}

#ifdef COURSE_FAKE_TENSORRT

class Constant final : public nvinfer1::IDimensionExpr {
public:
    explicit Constant(int64_t value) : value_(value) {}
    bool isConstant() const noexcept override { return true; }
    int64_t getConstantValue() const noexcept override { return value_; }

private:
    int64_t value_;
};

class Builder final : public nvinfer1::IExprBuilder {
public:
    const nvinfer1::IDimensionExpr* constant(int64_t value) noexcept override {
        kept_.push_back(std::make_unique<Constant>(value));
        return kept_.back().get();
    }
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op, const nvinfer1::IDimensionExpr& a,
                                              const nvinfer1::IDimensionExpr& b) noexcept override {
        const int64_t x = a.getConstantValue(), y = b.getConstantValue();
        using nvinfer1::DimensionOperation;
        expect(op == DimensionOperation::kPROD || op == DimensionOperation::kMIN, "only products and minima are asked for");
        return constant(op == DimensionOperation::kPROD ? x * y : x < y ? x : y);
    }

private:
    std::vector<std::unique_ptr<Constant>> kept_;
};

std::vector<int64_t> shape(IPluginV2DynamicExt& plugin, const std::vector<std::vector<int64_t>>& inputs) {
    Builder builder;
    std::vector<nvinfer1::DimsExprs> dims(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
        dims[i].nbDims = int32_t(inputs[i].size());
        for (size_t d = 0; d < inputs[i].size(); ++d) dims[i].d[d] = builder.constant(inputs[i][d]);
    }
    last_message.clear();
    const auto output = plugin.getOutputDimensions(0, dims.data(), int32_t(dims.size()), builder);
    std::vector<int64_t> result;
    for (int32_t d = 0; d < output.nbDims; ++d) result.push_back(output.d[d]->getConstantValue());
    return result;
}

void shapes() {
    using Shape = std::vector<int64_t>;
    const auto has = [](const char* words) { return last_message.find(words) != std::string::npos; };
    Owned roi = roi_align_node().create("MMCVRoiAlign"), levels = multi_level_node().create("MultiLevelRoIAlign"),
          grid = grid_node().create("grid_sampler"), nms = nms_node().create("NonMaxSuppression"),
          scatter = Node().create("ScatterND");
    expect(shape(*roi, {{2, 256, 200, 304}, {1000, 5}}) == Shape{1000, 256, 3, 2}, "MMCVRoiAlign shape");
    expect(shape(*levels, {{100, 5}, {2, 256, 200, 304}, {2, 256, 100, 152}}) == Shape{100, 256, 2, 2}, "MultiLevel shape");
    expect(shape(*grid, {{100, 1, 28, 28}, {100, 800, 1216, 2}}) == Shape{100, 1, 800, 1216}, "grid_sampler shape");
    expect(shape(*nms, {{2, 1000, 4}, {2, 80, 1000}}) == Shape{2 * 80 * 4, 3}, "NonMaxSuppression shape");
    expect(shape(*nms, {{2, 3, 4}, {2, 80, 3}}) == Shape{2 * 80 * 3, 3}, "NonMaxSuppression shape with few boxes");
    expect(shape(*scatter, {{3, 4}, {2, 1}, {2, 4}}) == Shape{3, 4}, "ScatterND shape");
    expect(shape(*roi, {{2, 256, 200}, {1000, 5}}).empty() && has("MMCVRoiAlign: the input 'features' has 3"), "rank of features");
    expect(shape(*roi, {{2, 256, 200, 304}}).empty() && has("has 1 inputs, not 2"), "number of inputs");
    expect(shape(*levels, {{100, 5}, {2, 256, 200, 304}}).empty() && has("has 2 inputs, not 3"), "a map for each stride");
    expect(shape(*grid, {{1, 1, 4, 4, 4}, {1, 4, 4, 4, 3}}).empty() && has("volume (5-D)"), "5-D: " + last_message);
    expect(shape(*nms, {{2, 3, 4}, {2, 80, 3}, {1}, {1}, {1}}).empty() && has("thresholds are inputs"), "ONNX's own NMS node");
}

class Registry final : public nvinfer1::IPluginRegistry {
public:
    bool registerCreator(nvinfer1::IPluginCreator& c, const char* name_space) noexcept override {
        return seen_.emplace(std::string(c.getPluginName()) + "/" + c.getPluginVersion() + "/" + name_space, 1).second;
    }
    std::map<std::string, int> seen_;
};
Registry registry;

void registration() {
    expect(course_plugins_register() == 5, "five creators are registered");
    for (const char* name : {"MMCVRoiAlign", "grid_sampler", "NonMaxSuppression", "ScatterND", "MultiLevelRoIAlign"})
        expect(registry.seen_.count(std::string(name) + "/1/") == 1, std::string(name) + " is found under version 1, no namespace");
    expect(course_plugins_register() == 0, "a second time, all names are taken");
}

#endif

void field_names() {
    const std::map<std::string, std::vector<std::string>> wanted = {
        {"MMCVRoiAlign", {"output_height", "output_width", "spatial_scale", "sampling_ratio", "mode", "aligned"}},
        {"grid_sampler", {"interpolation_mode", "padding_mode", "align_corners"}},
        {"NonMaxSuppression",
         {"center_point_box", "max_output_boxes_per_class", "iou_threshold", "score_threshold", "offset"}},
        {"ScatterND", {"reduction"}},
        {"MultiLevelRoIAlign",
         {"output_height", "output_width", "strides", "finest_scale", "sampling_ratio", "mode", "aligned"}}};
    int32_t count = 0;
    getPluginCreators(count);
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
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &registry; }
#else
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return nullptr; }
#endif

int main() {
    field_names();
    attributes();
    round_trips();
    formats();
#ifdef COURSE_FAKE_TENSORRT
    shapes();
    registration();
#endif
    printf(failures ? "%d failures\n" : "plugin classes: all as expected\n", failures);
    return failures > 100 ? 100 : failures;
}
