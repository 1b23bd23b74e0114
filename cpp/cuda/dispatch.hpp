// Dispatch on a GPU; what it means is in core/dispatch.hpp. An expert that does not exist asks for
// no slot, as -1 does: a device cannot raise.
#pragma once
#include "core/dispatch.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Bytes of workspace per item.
int64_t dispatch_workspace(int64_t tokens, int64_t k, int64_t experts, bool by_gate);

void dispatch_plan(Stream stream, View<const int32_t, 3> expert, View<const float, 3> gate,
                   View<int32_t, 3> slot, View<int32_t, 2> source, View<int32_t, 2> count,
                   View<uint8_t, 2> workspace, DispatchAttrs a);

void dispatch_sort(Stream stream, View<const int32_t, 3> expert, View<int32_t, 3> slot,
                   View<int32_t, 2> source, View<int32_t, 2> count, View<uint8_t, 2> workspace,
                   SortAttrs a);

}  // namespace bitlaw::cuda
