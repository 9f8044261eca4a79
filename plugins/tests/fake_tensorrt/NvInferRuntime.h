// NOT TensorRT. The few declarations of its plugin interfaces that plugins/tensorrt uses, written for the tests so that the
// plugin classes can be compiled and driven on a machine without TensorRT and without CUDA: IPluginV2DynamicExt for
// NV_TENSORRT_MAJOR 8, IPluginV3 for 10 (NvInferVersion.h's). It proves what the classes do when they are called as the
// documentation says; that TensorRT calls them so, only TensorRT can prove.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "NvInferVersion.h"

#define COURSE_FAKE_TENSORRT 1

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1 };
enum class DimensionOperation : int32_t { kSUM = 0, kPROD = 1, kMAX = 2, kMIN = 3 };

// 64-bit from version 10 on: narrowing must be explicit.
struct Dims {
    static constexpr int32_t MAX_DIMS = 8;
    int32_t nbDims;
#if NV_TENSORRT_MAJOR >= 10
    int64_t d[MAX_DIMS];
#else
    int32_t d[MAX_DIMS];
#endif
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};
struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min, max;
#if NV_TENSORRT_MAJOR >= 10
    Dims opt;
#endif
};

class IDimensionExpr {
public:
    virtual ~IDimensionExpr() = default;
    virtual bool isConstant() const noexcept = 0;
    virtual int64_t getConstantValue() const noexcept = 0;
};
class IExprBuilder {
public:
    virtual ~IExprBuilder() = default;
    virtual const IDimensionExpr* constant(int64_t value) noexcept = 0;
    virtual const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                            const IDimensionExpr& second) noexcept = 0;
};
struct DimsExprs {
    int32_t nbDims;
    const IDimensionExpr* d[8];
};

enum class PluginFieldType : int32_t {
    kFLOAT16 = 0,
    kFLOAT32 = 1,
    kFLOAT64 = 2,
    kINT8 = 3,
    kINT16 = 4,
    kINT32 = 5,
    kCHAR = 6,
    kUNKNOWN = 8
};
struct PluginField {
    const char* name;
    const void* data;
    PluginFieldType type;
    int32_t length;
    PluginField(const char* name_ = nullptr, const void* data_ = nullptr, PluginFieldType type_ = PluginFieldType::kCHAR,
                int32_t length_ = 0)
        : name(name_), data(data_), type(type_), length(length_) {}
};
struct PluginFieldCollection {
    int32_t nbFields;
    const PluginField* fields;
};

#if NV_TENSORRT_MAJOR >= 10

struct InterfaceInfo {
    const char* kind;
    int32_t major, minor;
};
class IVersionedInterface {
public:
    virtual ~IVersionedInterface() = default;
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
};

enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };
class IPluginResourceContext;

class IPluginCapability : public IVersionedInterface {};
class IPluginV3 : public IVersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN", 1, 0}; }
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
};
class IPluginV3OneCore : public IPluginCapability {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginV3OneBuild : public IPluginCapability {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
    virtual int32_t configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                    int32_t outputs) noexcept = 0;
    virtual int32_t getOutputDataTypes(DataType* types, int32_t outputs, const DataType* input_types,
                                       int32_t inputs) const noexcept = 0;
    virtual int32_t getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs* shape_in, int32_t shape_inputs,
                                    DimsExprs* out, int32_t outputs, IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                           int32_t outputs) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
};
class IPluginV3OneRuntime : public IPluginCapability {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
    virtual int32_t onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                                  int32_t outputs) noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
    virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorInterface : public IVersionedInterface {};
class IPluginCreatorV3One : public IPluginCreatorInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
    virtual IPluginV3* createPlugin(const char* name, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginRegistry {
public:
    virtual ~IPluginRegistry() = default;
    virtual bool registerCreator(IPluginCreatorInterface& creator, const char* name_space) noexcept = 0;
    virtual IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                                const char* name_space = "") noexcept = 0;
};

#else

class IPluginV2 {
public:
    virtual ~IPluginV2() = default;
    virtual const char* getPluginType() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void* buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual IPluginV2* clone() const noexcept = 0;
    virtual void setPluginNamespace(const char* name) noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginV2DynamicExt : public IPluginV2 {
public:
    virtual DataType getOutputDataType(int32_t index, const DataType* inputs, int32_t count) const noexcept = 0;
    IPluginV2DynamicExt* clone() const noexcept override = 0;
    virtual DimsExprs getOutputDimensions(int32_t index, const DimsExprs* inputs, int32_t count,
                                          IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t inputs,
                                           int32_t outputs) noexcept = 0;
    virtual void configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                 int32_t outputs) noexcept = 0;
    virtual size_t getWorkspaceSize(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                                    int32_t outputs) const noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};
class IPluginCreator {
public:
    virtual ~IPluginCreator() = default;
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual IPluginV2* createPlugin(const char* name, const PluginFieldCollection* fields) noexcept = 0;
    virtual IPluginV2* deserializePlugin(const char* name, const void* data, size_t length) noexcept = 0;
    virtual void setPluginNamespace(const char* name) noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginRegistry {
public:
    virtual ~IPluginRegistry() = default;
    virtual bool registerCreator(IPluginCreator& creator, const char* name_space) noexcept = 0;
    virtual IPluginCreator* getPluginCreator(const char* name, const char* version, const char* name_space = "") noexcept = 0;
};

#endif

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1 };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, const char* message) noexcept = 0;
};

}  // namespace nvinfer1

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
extern "C" nvinfer1::ILogger* getLogger() noexcept;
