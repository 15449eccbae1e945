// CUDA's runtime as ONNX Runtime's CUDA provider calls it: computes nothing, logs what is asked for, one line each.
//
// Memory is host memory without a page behind it until it is written to, so that a card of any size can be stood in for.
// STAND_IN_LOG: the file to append to. STAND_IN_CAPABILITY: 89 for 8.9. STAND_IN_MEMORY: bytes of the card.
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::mutex guard;
std::map<const void*, std::string> kernel_names;
std::map<void*, size_t> allocations;
size_t held = 0;
bool capturing = false;
long handles = 0x1000;
const size_t LARGEST_COPY = 64u << 20;  // larger ones between device addresses would only fill pages

void note(const char* format, ...) {
    static const char* path = getenv("STAND_IN_LOG");
    if (!path) return;
    std::lock_guard<std::mutex> lock(guard);
    static FILE* file = fopen(path, "a");
    if (!file) return;
    va_list values;
    va_start(values, format);
    vfprintf(file, format, values);
    va_end(values);
    fflush(file);
}

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

int capability() { return (int)setting("STAND_IN_CAPABILITY", 89); }
size_t memory() { return (size_t)setting("STAND_IN_MEMORY", 24l << 30); }

std::string readable(const std::string& name) {
    int status = 0;
    char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    std::string result = text ? text : name;
    free(text);
    return result;
}

void* reserve(size_t size) {
    size_t rounded = (size + 4095) & ~size_t(4095);
    if (!rounded) rounded = 4096;
    void* place = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    std::lock_guard<std::mutex> lock(guard);
    allocations[place] = rounded;
    return place;
}

size_t release(void* place) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = allocations.find(place);
    if (found == allocations.end()) return 0;
    size_t size = found->second;
    munmap(place, size);
    allocations.erase(found);
    return size;
}

cudaError_t launched(const void* function, dim3 grid, dim3 block) {
    auto found = kernel_names.find(function);
    std::string name = found == kernel_names.end() ? "unknown" : readable(found->second);
    note("kernel\t%u,%u,%u\t%u\t%d\t%s\n", grid.x, grid.y, grid.z, block.x, (int)capturing, name.c_str());
    return cudaSuccess;
}

cudaError_t copied(void* target, const void* source, size_t size, cudaMemcpyKind kind) {
    static const char* kinds[] = {"HtoH", "HtoD", "DtoH", "DtoD", "default"};
    note("copy\t%s\t%zu\n", kinds[kind > 4 ? 4 : kind], size);
    if (size <= LARGEST_COPY || kind == cudaMemcpyHostToDevice) memcpy(target, source, size);
    return cudaSuccess;
}

template <typename Handle>
cudaError_t handed(Handle* handle) {
    *handle = (Handle)(++handles * 16);
    return cudaSuccess;
}

thread_local struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} pushed;

}  // namespace

// What nvcc's own code calls around each kernel.
EXPORT void** __cudaRegisterFatBinary(void*) {
    static void* handle[4];
    return handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, void*, void*, void*, void*, int*) {
    kernel_names[host] = device;
}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed = {grid, block, shared, stream};
    return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *(cudaStream_t*)stream = pushed.stream;
    return cudaSuccess;
}
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t, cudaStream_t) {
    return launched((void*)kernel, grid, block);
}
EXPORT cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, size_t, cudaStream_t) {
    return launched(function, grid, block);
}
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void**, size_t, cudaStream_t) {
    return launched(function, grid, block);
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
    return launched(function, config->gridDim, config->blockDim);
}

EXPORT cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
EXPORT cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
EXPORT cudaError_t cudaSetDevice(int) { return cudaSuccess; }
static cudaError_t described(cudaDeviceProp* properties) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "Stand-in");
    properties->major = capability() / 10;
    properties->minor = capability() % 10;
    properties->totalGlobalMem = memory();
    properties->multiProcessorCount = 128;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 1536;
    properties->warpSize = 32;
    properties->sharedMemPerBlock = 49152;
    properties->sharedMemPerBlockOptin = capability() == 90 ? 232448 : 101376;
    properties->sharedMemPerMultiprocessor = capability() == 90 ? 233472 : 102400;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->maxGridSize[0] = 2147483647;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->l2CacheSize = 72 << 20;
    properties->memoryBusWidth = 384;
    properties->unifiedAddressing = properties->managedMemory = properties->cooperativeLaunch = 1;
    properties->memoryPoolsSupported = 1;
    return cudaSuccess;
}
#undef cudaGetDeviceProperties
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) { return described(properties); }
EXPORT cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* properties, int) { return described(properties); }
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    cudaDeviceProp known;
    described(&known);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = known.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = known.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = known.multiProcessorCount; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)known.sharedMemPerBlockOptin; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)known.sharedMemPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)known.sharedMemPerMultiprocessor; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = known.maxThreadsPerBlock; break;
        case cudaDevAttrWarpSize: *value = known.warpSize; break;
        default: *value = 1;
    }
    return cudaSuccess;
}
EXPORT cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

EXPORT cudaError_t cudaMalloc(void** place, size_t size) {
    if (held + size > memory()) {
        note("refused\t%zu\n", size);
        return *place = nullptr, cudaErrorMemoryAllocation;
    }
    *place = reserve(size);
    held += allocations[*place];
    note("allocate\t%zu\n", allocations[*place]);
    return cudaSuccess;
}
EXPORT cudaError_t cudaFree(void* place) {
    size_t size = release(place);
    held -= size;
    note("free\t%zu\n", size);
    return cudaSuccess;
}
static cudaError_t pinned(void** place, size_t size) {
    *place = reserve(size);
    note("pinned\t%zu\n", size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMallocHost(void** place, size_t size) { return pinned(place, size); }
EXPORT cudaError_t cudaHostAlloc(void** place, size_t size, unsigned) { return pinned(place, size); }
EXPORT cudaError_t cudaFreeHost(void* place) { return release(place), cudaSuccess; }
EXPORT cudaError_t cudaMallocFromPoolAsync(void** place, size_t size, cudaMemPool_t, cudaStream_t) {
    return cudaMalloc(place, size);
}
EXPORT cudaError_t cudaFreeAsync(void* place, cudaStream_t) { return cudaFree(place); }
EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = memory() - held;
    *total = memory();
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpy(void* target, const void* source, size_t size, cudaMemcpyKind kind) {
    return copied(target, source, size, kind);
}
EXPORT cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size, cudaMemcpyKind kind, cudaStream_t) {
    return copied(target, source, size, kind);
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* place) {
    memset(found, 0, sizeof *found);
    std::lock_guard<std::mutex> lock(guard);
    found->type = allocations.count((void*)place) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    found->devicePointer = (void*)place;
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamCreate(cudaStream_t* stream) { return handed(stream); }
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return handed(stream); }
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) { return handed(event); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return handed(event); }
EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    return *milliseconds = 1, cudaSuccess;
}
EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    capturing = true;
    note("capture\tbegin\n");
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
    capturing = false;
    note("capture\tend\n");
    return handed(graph);
}
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) { return handed(graph); }
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return note("replay\n"), cudaSuccess; }
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
    return function(data), cudaSuccess;
}
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->binaryVersion = found->ptxVersion = capability();
    return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
    return *blocks = 2, cudaSuccess;
}
EXPORT const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "stand-in";
}
EXPORT const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "stand-in";
}
static int nothing() { return 0; }
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
    *function = (void*)nothing;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
EXPORT cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void*, cudaJitOption*, void**, unsigned,
                                       cudaLibraryOption*, void**, unsigned) {
    return handed(library);
}
EXPORT cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t, const char* name) {
    static std::map<std::string, char*> known;
    char*& place = known[name];
    if (!place) {
        place = (char*)malloc(1);
        kernel_names[place] = name;
    }
    *kernel = (cudaKernel_t)place;
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) { return handed(pool); }
EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
    return *(unsigned long long*)value = 0, cudaSuccess;
}
