// The plugin class and its creator for TensorRT from 10 on: IPluginV3, which splits a plugin into what it is (core), what the
// builder asks (build) and what a run needs (runtime). One object has all three.
#pragma once

#include "operator.h"

namespace course {

using CreatorInterface = nvinfer1::IPluginCreatorInterface;

template <typename Operator>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    using Parameters = typename Operator::Parameters;

    // The field that holds a Stored<Operator> in an engine.
    static constexpr const char* kStoredField = "course_state";

    explicit Plugin(const Parameters& parameters) noexcept
        : stored_(parameters), field_(kStoredField, &stored_, nvinfer1::PluginFieldType::kUNKNOWN, int32_t(sizeof(stored_))) {
        collection_.nbFields = 1;
        collection_.fields = &field_;
    }
    Plugin(const Plugin&) = delete;  // field_ points into the object

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        using nvinfer1::PluginCapabilityType;
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    nvinfer1::IPluginV3* clone() noexcept override {
        return guarded(static_cast<nvinfer1::IPluginV3*>(nullptr), [&] { return new Plugin(stored_.parameters); });
    }

    // IPluginV3OneCore
    const char* getPluginName() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return version(); }
    const char* getPluginNamespace() const noexcept override { return ""; }

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        return checked(inputs, count);
    }
    int32_t getOutputDataTypes(DataType* types, int32_t, const DataType* inputs, int32_t) const noexcept override {
        types[0] = Operator::output_type(inputs);
        return kCourseOk;
    }
    int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* outputs, int32_t,
                            IExprBuilder& builder) noexcept override {
        return guarded(int32_t(kCourseBadArgument), [&] {
            outputs[0] = output_dimensions<Operator>(stored_.parameters, inputs, count, builder);
            return int32_t(kCourseOk);
        });
    }
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t,
                                   int32_t) noexcept override {
        return supports<Operator>(position, [&](int32_t i) -> const PluginTensorDesc& { return tensors[i].desc; });
    }

    // IPluginV3OneRuntime
    int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t count, const PluginTensorDesc*, int32_t) noexcept override {
        return checked(inputs, count);
    }
    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs, const void* const* inputs,
                    void* const* outputs, void*, cudaStream_t stream) noexcept override {
        return course::enqueue<Operator>(stored_.parameters, input_descs, output_descs, inputs, outputs, stream);
    }
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

private:
    template <typename Tensor>
    int32_t checked(const Tensor* inputs, int32_t count) const noexcept {
        return guarded(int32_t(kCourseBadArgument), [&] {
            check_inputs<Operator>(stored_.parameters, inputs, count);
            return int32_t(kCourseOk);
        });
    }

    Stored<Operator> stored_;
    nvinfer1::PluginField field_;
    nvinfer1::PluginFieldCollection collection_{};
};

template <typename Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    const char* getPluginName() const noexcept override { return Operator::name(); }
    const char* getPluginVersion() const noexcept override { return version(); }
    const char* getPluginNamespace() const noexcept override { return ""; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return names_.get(); }
    // In the build phase the fields are the node's attributes, at run time what getFieldsToSerialize() gave.
    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection,
                                      nvinfer1::TensorRTPhase phase) noexcept override {
        return guarded(static_cast<nvinfer1::IPluginV3*>(nullptr), [&] {
            const Fields fields(Operator::name(), collection);
            if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
                const nvinfer1::PluginField* field = fields.find(Plugin<Operator>::kStoredField);
                const size_t length = field && field->length > 0 ? size_t(field->length) : 0;
                return new Plugin<Operator>(Stored<Operator>::read(field ? field->data : nullptr, length));
            }
            const auto parameters = Operator::parse(fields);
            Operator::check(parameters);
            return new Plugin<Operator>(parameters);
        });
    }

private:
    FieldNames<Operator> names_;
};

}  // namespace course
