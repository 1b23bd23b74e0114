// CUDA function -> XLA FFI handler, on the stream XLA gives; exceptions become errors.
#pragma once
#include "bind/xla.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::bind {

template <auto... fns>
struct XlaCudaHandler {
  static ffi::Error call(cuda::Stream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                         ffi::Dictionary attrs) {
    return call_first<fns...>(XlaSource(args, rets, attrs), stream);
  }
  static XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame) {
    static auto* handler = ffi::Ffi::Bind()
                               .Ctx<ffi::PlatformStream<cuda::Stream>>()
                               .RemainingArgs()
                               .RemainingRets()
                               .Attrs()
                               .To(&call, {ffi::Traits::kCmdBufferCompatible})
                               .release();
    return handler->Call(frame);
  }
};

}  // namespace bitlaw::bind
