"""C++ sources of the libraries that only have to be there (cuBLAS, cuDNN, cuRAND, cuFFT, the driver), and to say what was asked.

Of each function that the provider names there is one that returns 0; those whose answer matters are written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HEAD = r"""
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
static void note(const char* format, ...) {
    static const char* path = getenv("STAND_IN_LOG");
    static FILE* file = path ? fopen(path, "a") : nullptr;
    if (!file) return;
    va_list values;
    va_start(values, format);
    vfprintf(file, format, values);
    va_end(values);
    fflush(file);
}
extern "C" {
"""
# A GEMM's line: m, n, k, number in the batch, type of the factors and of the result, type that is calculated in.
_BLAS = r"""
int cublasCreate_v2(void** handle) { return *handle = (void*)0x11, 0; }
int cublasGetMathMode(void*, int* mode) { return *mode = 0, 0; }
const char* cublasGetStatusName(int) { return "stand-in"; }
const char* cublasGetStatusString(int) { return "stand-in"; }
int cublasGemmEx(void*, int, int, int m, int n, int k, const void*, const void*, int a, int, const void*, int, int,
                 const void*, void*, int c, int, int compute, int) {
    return note("gemm\t%d\t%d\t%d\t1\t%d\t%d\t%d\n", m, n, k, a, c, compute), 0;
}
int cublasGemmStridedBatchedEx(void*, int, int, int m, int n, int k, const void*, const void*, int a, int, long long,
                               const void*, int, int, long long, const void*, void*, int c, int, long long, int count,
                               int compute, int) {
    return note("gemm\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", m, n, k, count, a, c, compute), 0;
}
int cublasSgemm_v2(void*, int, int, int m, int n, int k, const void*, const void*, int, const void*, int, const void*,
                   void*, int) {
    return note("gemm\t%d\t%d\t%d\t1\t0\t0\t68\n", m, n, k), 0;
}
"""
_BLAS_LT = r"""
int cublasLtCreate(void** handle) { return *handle = (void*)0x12, 0; }
int cublasLtMatmulDescCreate(void** made, int, int) { return *made = (void*)0x13, 0; }
int cublasLtMatrixLayoutCreate(void** made, int, unsigned long, unsigned long, long) { return *made = (void*)0x14, 0; }
int cublasLtMatmulPreferenceCreate(void** made) { return *made = (void*)0x15, 0; }
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* found, int* count) {
    memset(found, 0, 64);
    return *count = 1, 0;
}
"""
# cuDNN's graph interface, as if it had two engines for each convolution: one with tensor cores, listed first, and one without.
# Numbers are those of cudnn_graph.h: types of attributes, 1303 the numeric notes of an engine, 0 the note `tensor core`.
_DNN = r"""
struct Descriptor { int type, engine, pad[30]; };
size_t cudnnGetVersion() { return 91500; }
int cudnnCreate(void** handle) { return *handle = (void*)0x21, 0; }
const char* cudnnGetErrorString(int) { return "stand-in"; }
void cudnnGetLastErrorString(char* text, size_t size) { if (size) text[0] = 0; }
int cudnnGetStream(void*, void** stream) { return *stream = (void*)0x22, 0; }
int cudnnBackendCreateDescriptor(int type, void** made) {
    Descriptor* found = (Descriptor*)calloc(1, sizeof(Descriptor));
    found->type = type;
    found->engine = -1;
    return *made = found, 0;
}
int cudnnBackendDestroyDescriptor(void*) { return 0; }
int cudnnBackendExecute(void*, void* plan, void*) {
    static const char* engines[] = {"unknown", "tensor cores", "no tensor cores"};
    int engine = ((Descriptor*)plan)->engine;
    return note("convolution\t%s\n", engines[engine == 0 ? 1 : engine == 1 ? 2 : 0]), 0;
}
int cudnnBackendSetAttribute(void* descriptor, int, int type, int64_t count, const void* values) {
    if (type == 15 && count >= 1 && values) {
        Descriptor* other = *(Descriptor**)values;
        if (other && other->engine >= 0) ((Descriptor*)descriptor)->engine = other->engine;
    }
    return 0;
}
int cudnnBackendGetAttribute(void* descriptor, int name, int type, int64_t room, int64_t* count, void* values) {
    Descriptor* of = (Descriptor*)descriptor;
    int64_t found = type == 15 || type == 23 || (type >= 0 && type <= 3) ? 1 : 0;
    if (name == 202) {
        found = 2;
        for (int each = 0; values && each < 2 && each < room; each++) ((Descriptor**)values)[each]->engine = each;
    } else if (name == 300) {
        Descriptor* engine = values ? *(Descriptor**)values : nullptr;
        if (engine) engine->engine = of->engine;
    } else if (name == 302) {
        found = 0;
    } else if (name == 1303) {
        found = of->engine == 0 ? 1 : 0;
        if (values && found) *(int*)values = 0;
    } else if (type == 3) {
        if (values) *(int64_t*)values = name == 1301 ? 100 * (of->engine + 1) : 0;
    } else if (type == 23 || type == 1 || type == 2) {
        if (values) memset(values, 0, 4);
    }
    if (count) *count = found;
    return 0;
}
int cudnnGetReductionWorkspaceSize(void*, void*, void*, void*, size_t* size) { return *size = 0, 0; }
int cudnnGetReductionIndicesSize(void*, void*, void*, void*, size_t* size) { return *size = 0, 0; }
"""
_WRITTEN = {"cublas": _BLAS, "cublasLt": _BLAS_LT, "cudnn": _DNN}


def source_of(library: str, functions: Iterable[str]) -> str:
    """Return the source of a library that has these functions."""
    written = _WRITTEN.get(library, "")
    lines = []
    for name in sorted(set(functions)):
        if re.search(rf"\b{re.escape(name)}\(", written):
            continue
        if "Create" in name and name.endswith("Descriptor"):
            lines.append(f"int {name}(void** made) {{ return *made = calloc(1, 64), 0; }}")
        else:
            lines.append(f'int {name}(...) {{ return note("call\\t{name}\\n"), 0; }}')
    return f"{_HEAD}{written}\n" + "\n".join(lines) + "\n}\n"
