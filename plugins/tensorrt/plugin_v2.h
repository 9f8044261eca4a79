// The plugin class and its creator for TensorRT before 10: IPluginV2DynamicExt.
#pragma once

#include "operator.h"

// Deprecated since 10.0, its base classes since 8.5, when nothing had come to replace them yet. It also declares some
// methods in two forms, of which one is final, and a class that defines the other hides it.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#pragma GCC diagnostic ignored "-Woverloaded-virtual"

namespace course {

using CreatorInterface = nvinfer1::IPluginCreator;

template <typename Operator>
class Plugin final : public nvinfer1::IPluginV2DynamicExt {
public:
    using Parameters = typename Operator::Parameters;

    explicit Plugin(const Parameters& parameters) noexcept : parameters_(parameters) {}

    // IPluginV2
    const char* getPluginType() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return version(); }
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return sizeof(Stored<Operator>); }
    void serialize(void* buffer) const noexcept override {
        const Stored<Operator> stored(parameters_);
        memcpy(buffer, &stored, sizeof(stored));
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(const char* name) noexcept override {
        guarded(0, [&] { namespace_ = name ? name : ""; return 0; });
    }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

    // IPluginV2Ext
    DataType getOutputDataType(int32_t, const DataType* inputs, int32_t) const noexcept override {
        return Operator::output_type(inputs);
    }

    // IPluginV2DynamicExt
    IPluginV2DynamicExt* clone() const noexcept override {
        return guarded(static_cast<IPluginV2DynamicExt*>(nullptr), [&] { return new Plugin(*this); });
    }
    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t count, IExprBuilder& builder) noexcept override {
        DimsExprs invalid{};
        invalid.nbDims = -1;  // TensorRT stops, after our sentence
        return guarded(invalid, [&] { return output_dimensions<Operator>(parameters_, inputs, count, builder); });
    }
    bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t, int32_t) noexcept override {
        return supports<Operator>(position, [&](int32_t i) -> const PluginTensorDesc& { return tensors[i]; });
    }
    // Cannot refuse, only tell; enqueue() refuses.
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                         const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        guarded(0, [&] { check_inputs<Operator>(parameters_, inputs, count); return 0; });
    }
    size_t getWorkspaceSize(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) const noexcept override {
        return 0;
    }
    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs, const void* const* inputs,
                    void* const* outputs, void*, cudaStream_t stream) noexcept override {
        return course::enqueue<Operator>(parameters_, input_descs, output_descs, inputs, outputs, stream);
    }

private:
    Parameters parameters_;
    std::string namespace_;
};

template <typename Operator>
class Creator final : public CreatorInterface {
public:
    const char* getPluginName() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return version(); }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return names_.get(); }
    nvinfer1::IPluginV2* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection) noexcept override {
        return made([&] {
            const auto parameters = Operator::parse(Fields(Operator::name(), collection));
            Operator::check(parameters);
            return parameters;
        });
    }
    nvinfer1::IPluginV2* deserializePlugin(const char*, const void* data, size_t length) noexcept override {
        return made([&] { return Stored<Operator>::read(data, length); });
    }
    void setPluginNamespace(const char* name) noexcept override {
        guarded(0, [&] { namespace_ = name ? name : ""; return 0; });
    }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

private:
    // A null pointer is how a creator refuses.
    template <typename Function>
    nvinfer1::IPluginV2* made(Function parameters) noexcept {
        return guarded(static_cast<nvinfer1::IPluginV2*>(nullptr), [&] {
            auto* plugin = new Plugin<Operator>(parameters());
            plugin->setPluginNamespace(namespace_.c_str());
            return plugin;
        });
    }

    FieldNames<Operator> names_;
    std::string namespace_;
};

}  // namespace course

#pragma GCC diagnostic pop
