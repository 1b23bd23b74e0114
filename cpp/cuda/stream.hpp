// The core's functions on a GPU: the same names, views and attributes, and a stream in place of
// Parallel. They only launch: no allocation, no synchronisation, so XLA may record them in a graph.
#pragma once
#include "core/view.hpp"

struct CUstream_st;  // cudaStream_t points to it; so this header needs no CUDA

namespace bitlaw::cuda {
using Stream = CUstream_st*;
}
