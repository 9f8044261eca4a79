// One TensorRT plugin class and one creator for all operators, TensorRT 8.4 to 11.
//
// IPluginV2DynamicExt is the one plugin interface that all those versions have. An operator describes itself by a struct
// of static functions (see the *_plugin.cpp files); the templates here do what every plugin must do the same way:
//
//   struct Operator {
//       struct Parameters {...};                      // trivially copyable: serialized as bytes
//       static const char* name();                    // the ONNX node's type: what the parser looks up
//       static std::vector<const char*> attributes();
//       static Parameters parse(const Fields&);       // throws PluginError
//       static void check(const Parameters&);         // throws PluginError; also run on what was deserialized
//       static void check_inputs(const Parameters&, int32_t inputs, const Ranks&);
//       static DimsExprs output_dimensions(const Parameters&, const DimsExprs* inputs, IExprBuilder&);
//       static DataType output_type(const DataType* inputs);
//       static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t inputs);
//       static size_t workspace(const Parameters&, const PluginTensorDesc* inputs);
//       static int32_t enqueue(const Parameters&, const PluginTensorDesc* input_descs, const void* const* inputs,
//                              void* const* outputs, void* workspace, void* stream);
//   };
#pragma once

#include <NvInferRuntime.h>
#include <string.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../common/host_device.h"

namespace course {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginTensorDesc;

// What a user did wrong, in one sentence that starts with the operator's name. Thrown inside a plugin only; every entry
// point that TensorRT calls is noexcept, catches it, and reports it.
class PluginError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// To TensorRT's own logger, or to stderr where there is none yet.
void report_error(const char* message) noexcept;

// The attributes of a node as the parser hands them over.
class Fields {
public:
    Fields(const char* operator_name, const nvinfer1::PluginFieldCollection* collection)
        : operator_(operator_name), collection_(collection) {}

    int32_t integer(const char* name) const { return integer_of(required(name)); }
    int32_t integer(const char* name, int32_t otherwise) const {
        const auto* field = find(name);
        return field ? integer_of(*field) : otherwise;
    }
    float number(const char* name) const { return numbers_of(required(name), 1, 1)[0]; }
    float number(const char* name, float otherwise) const {
        const auto* field = find(name);
        return field ? numbers_of(*field, 1, 1)[0] : otherwise;
    }
    std::vector<float> numbers(const char* name, size_t most) const { return numbers_of(required(name), 1, most); }
    std::string text(const char* name, const char* otherwise) const {
        const auto* field = find(name);
        if (!field) return otherwise;
        if (field->type != nvinfer1::PluginFieldType::kCHAR || !field->data) throw wrong(*field, "is not a string");
        // Some parsers count the terminating zero.
        std::string value(static_cast<const char*>(field->data), size_t(field->length > 0 ? field->length : 0));
        while (!value.empty() && value.back() == '\0') value.pop_back();
        return value;
    }

private:
    // Not in the enumeration of TensorRT 8; its value from 10 on.
    static constexpr int32_t kInt64Field = 10;

    const nvinfer1::PluginField* find(const char* name) const {
        for (int32_t i = 0; collection_ && i < collection_->nbFields; ++i)
            if (collection_->fields[i].name && strcmp(collection_->fields[i].name, name) == 0) return &collection_->fields[i];
        return nullptr;
    }
    const nvinfer1::PluginField& required(const char* name) const {
        const auto* field = find(name);
        if (!field) throw PluginError(std::string(operator_) + ": the attribute '" + name + "' is missing");
        return *field;
    }
    PluginError wrong(const nvinfer1::PluginField& field, const std::string& what) const {
        return PluginError(std::string(operator_) + ": the attribute '" + field.name + "' " + what);
    }
    int32_t integer_of(const nvinfer1::PluginField& field) const {
        if (!field.data || field.length != 1) throw wrong(field, "is not one integer");
        if (field.type == nvinfer1::PluginFieldType::kINT32) return *static_cast<const int32_t*>(field.data);
        if (int32_t(field.type) == kInt64Field) {
            const int64_t value = *static_cast<const int64_t*>(field.data);
            if (value < INT32_MIN || value > INT32_MAX) throw wrong(field, "is " + std::to_string(value) + ", beyond 32 bits");
            return int32_t(value);
        }
        throw wrong(field, "is not one integer");
    }
    std::vector<float> numbers_of(const nvinfer1::PluginField& field, size_t least, size_t most) const {
        const size_t count = field.length > 0 ? size_t(field.length) : 0;
        if (!field.data || count < least || count > most)
            throw wrong(field, most == 1 ? "is not one number" : "has " + std::to_string(count) + " values, not " +
                                                                     std::to_string(least) + " to " + std::to_string(most));
        std::vector<float> values(count);
        for (size_t i = 0; i < count; ++i) {
            if (field.type == nvinfer1::PluginFieldType::kFLOAT32)
                values[i] = static_cast<const float*>(field.data)[i];
            else if (field.type == nvinfer1::PluginFieldType::kFLOAT64)
                values[i] = float(static_cast<const double*>(field.data)[i]);
            else
                throw wrong(field, "is not of floating point");
        }
        return values;
    }

    const char* operator_;
    const nvinfer1::PluginFieldCollection* collection_;
};

// --- small helpers for the operators ---

inline bool is_linear(const PluginTensorDesc& tensor) { return tensor.format == nvinfer1::TensorFormat::kLINEAR; }
inline bool is_floating(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

inline int32_t course_type(DataType type) {
    switch (type) {
        case DataType::kFLOAT: return kCourseFloat32;
        case DataType::kHALF: return kCourseFloat16;
        case DataType::kINT32: return kCourseInt32;
        default: return -1;  // supports() lets no other type through
    }
}

// Dims::d is 32-bit up to TensorRT 8 and 64-bit from 10 on; no dimension of this model comes near 2^31.
inline int32_t dim(const PluginTensorDesc& tensor, int32_t axis) { return int32_t(tensor.dims.d[axis]); }

inline void expect_rank(const char* operator_name, const char* input, int32_t rank, int32_t wanted) {
    if (rank == wanted) return;
    throw PluginError(std::string(operator_name) + ": the input '" + input + "' has " + std::to_string(rank) +
                      " dimensions, not " + std::to_string(wanted));
}

inline void expect_inputs(const char* operator_name, int32_t got, int32_t least, int32_t most) {
    if (got >= least && got <= most) return;
    throw PluginError(std::string(operator_name) + ": has " + std::to_string(got) + " inputs, not " + std::to_string(least) +
                      (most > least ? " to " + std::to_string(most) : ""));
}

inline void expect_range(const char* operator_name, const char* attribute, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw PluginError(std::string(operator_name) + ": the attribute '" + attribute + "' is " + std::to_string(value) +
                      ", not from " + std::to_string(low) + " to " + std::to_string(high));
}

using Ranks = std::vector<int32_t>;

// --- the plugin ---

template <typename Operator>
class Plugin final : public nvinfer1::IPluginV2DynamicExt {
public:
    using Parameters = typename Operator::Parameters;
    static_assert(std::is_trivially_copyable<Parameters>::value, "parameters are serialized as bytes");

    explicit Plugin(const Parameters& parameters) : parameters_(parameters) {}

    // What was serialized: a tag (the operator's name and the size of its parameters), then the parameters.
    static Plugin* deserialize(const void* data, size_t length) {
        const std::string tag = serialized_tag();
        if (!data || length != tag.size() + sizeof(Parameters) || memcmp(data, tag.data(), tag.size()) != 0)
            throw PluginError(std::string(Operator::name()) +
                              ": the engine holds no such plugin, or one of another version: build the engine again");
        Parameters parameters;
        memcpy(&parameters, static_cast<const char*>(data) + tag.size(), sizeof(Parameters));
        Operator::check(parameters);
        return new Plugin(parameters);
    }

    const Parameters& parameters() const { return parameters_; }

    // IPluginV2
    const char* getPluginType() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return "1"; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return serialized_tag().size() + sizeof(Parameters); }
    void serialize(void* buffer) const noexcept override {
        const std::string tag = serialized_tag();
        memcpy(buffer, tag.data(), tag.size());
        memcpy(static_cast<char*>(buffer) + tag.size(), &parameters_, sizeof(Parameters));
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(const char* name) noexcept override { namespace_ = name ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

    // IPluginV2Ext
    DataType getOutputDataType(int32_t, const DataType* inputs, int32_t) const noexcept override {
        return Operator::output_type(inputs);
    }

    // IPluginV2DynamicExt
    IPluginV2DynamicExt* clone() const noexcept override {
        auto* copy = new Plugin(parameters_);
        copy->namespace_ = namespace_;
        return copy;
    }
    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t count, IExprBuilder& builder) noexcept override {
        DimsExprs nothing{};
        nothing.nbDims = -1;  // invalid: TensorRT stops, after our sentence
        try {
            Ranks ranks;
            for (int32_t i = 0; i < count; ++i) ranks.push_back(inputs[i].nbDims);
            Operator::check_inputs(parameters_, count, ranks);
            return Operator::output_dimensions(parameters_, inputs, builder);
        } catch (const std::exception& error) {
            report_error(error.what());
            return nothing;
        }
    }
    bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t inputs,
                                   int32_t) noexcept override {
        return is_linear(tensors[position]) && Operator::supports(position, tensors, inputs);
    }
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, int32_t, const nvinfer1::DynamicPluginTensorDesc*,
                         int32_t) noexcept override {}
    size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*,
                            int32_t) const noexcept override {
        return Operator::workspace(parameters_, inputs);
    }
    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*, const void* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        const int32_t status = Operator::enqueue(parameters_, input_descs, inputs, outputs, workspace, stream);
        if (status != 0) {
            report_error((std::string(Operator::name()) + ": the kernel returned CUDA error " + std::to_string(status)).c_str());
        }
        return status;
    }

private:
    static std::string serialized_tag() {
        return std::string(Operator::name()) + "/1/" + std::to_string(sizeof(Parameters)) + "\n";
    }

    Parameters parameters_;
    std::string namespace_;
};

template <typename Operator>
class Creator final : public nvinfer1::IPluginCreator {
public:
    Creator() : attributes_(Operator::attributes()) {
        for (const char* attribute : attributes_) fields_.emplace_back(attribute);
        collection_.nbFields = int32_t(fields_.size());
        collection_.fields = fields_.data();
    }
    const char* getPluginName() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return "1"; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    nvinfer1::IPluginV2* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection) noexcept override {
        return guarded([&] {
            const auto parameters = Operator::parse(Fields(Operator::name(), collection));
            Operator::check(parameters);
            return new Plugin<Operator>(parameters);
        });
    }
    nvinfer1::IPluginV2* deserializePlugin(const char*, const void* data, size_t length) noexcept override {
        return guarded([&] { return Plugin<Operator>::deserialize(data, length); });
    }
    void setPluginNamespace(const char* name) noexcept override { namespace_ = name ? name : ""; }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

private:
    // A null pointer is how a creator refuses.
    template <typename Make>
    nvinfer1::IPluginV2* guarded(Make make) noexcept {
        try {
            Plugin<Operator>* plugin = make();
            plugin->setPluginNamespace(namespace_.c_str());
            return plugin;
        } catch (const std::exception& error) {
            report_error(error.what());
            return nullptr;
        }
    }

    std::vector<const char*> attributes_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
    std::string namespace_;
};

// Defined by each operator's *_plugin.cpp, collected by registry.cpp.
nvinfer1::IPluginCreator& roi_align_creator();
nvinfer1::IPluginCreator& multi_level_roi_align_creator();
nvinfer1::IPluginCreator& grid_sampler_creator();
nvinfer1::IPluginCreator& non_max_suppression_creator();
nvinfer1::IPluginCreator& scatter_nd_creator();

}  // namespace course
