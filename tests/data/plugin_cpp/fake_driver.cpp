// A CUDA driver that starts nothing and prints what it was asked for. GPU: FAKE_SM, for example 86.
#include <cstdio>
#include <cstdlib>
#include <cuda.h>
#include <string>
#include <vector>

namespace
{
struct Kernel
{
    std::string name;
};
int sm()
{
    char const* text = std::getenv("FAKE_SM");
    return text == nullptr ? 86 : std::atoi(text);
}
} // namespace

extern "C"
{
CUresult cuCtxGetCurrent(CUcontext* context)
{
    *context = reinterpret_cast<CUcontext>(0x1);
    return CUDA_SUCCESS;
}
#undef cuCtxGetDevice
CUresult cuCtxGetDevice(CUdevice* device)
{
    *device = 0;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice)
{
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? sm() / 10 : sm() % 10;
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, void const* image)
{
    auto const* bytes = static_cast<unsigned char const*>(image);
    std::printf("load %s\n", bytes[0] == 0x7f && bytes[1] == 'E' ? "CUBIN" : "PTX");
    *module = reinterpret_cast<CUmodule>(const_cast<void*>(image));
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, char const* name)
{
    *function = reinterpret_cast<CUfunction>(new Kernel{name});
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int value)
{
    std::printf("shared %d\n", value);
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned gridX, unsigned, unsigned, unsigned blockX,
    unsigned, unsigned, unsigned shared, CUstream stream, void** arguments, void**)
{
    std::printf("launch %s %u %u %u %p", reinterpret_cast<Kernel*>(function)->name.c_str(), gridX, blockX,
        shared, static_cast<void*>(stream));
    // The test's pointers are small and even, its scalars are what they are: four bytes tell both.
    for (int i = 0; i < std::atoi(std::getenv("FAKE_ARGUMENTS")); ++i)
    {
        std::printf(" %d", *static_cast<int*>(arguments[i]));
    }
    std::printf("\n");
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, char const** text)
{
    *text = "an error of the fake driver";
    return CUDA_SUCCESS;
}
}
