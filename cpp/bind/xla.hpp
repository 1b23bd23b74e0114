// Core function -> XLA FFI handler. XLA's own thread pool serves it; exceptions become errors.
#pragma once
#include <xla/ffi/api/ffi.h>

#include "bind/signature.hpp"

namespace bitlaw::bind {
namespace ffi = xla::ffi;

template <class E>
inline constexpr ffi::DataType kXlaType = ffi::DataType::INVALID;
template <>
inline constexpr ffi::DataType kXlaType<float> = ffi::F32;
template <>
inline constexpr ffi::DataType kXlaType<bfloat16> = ffi::BF16;
template <>
inline constexpr ffi::DataType kXlaType<float16> = ffi::F16;
template <>
inline constexpr ffi::DataType kXlaType<uint8_t> = ffi::U8;
template <>
inline constexpr ffi::DataType kXlaType<int32_t> = ffi::S32;
template <>
inline constexpr ffi::DataType kXlaType<uint32_t> = ffi::U32;

class XlaExecutor final : public Executor {
 public:
  explicit XlaExecutor(ffi::ThreadPool& pool) : pool_(pool) {}
  int64_t threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
};

struct XlaAttributes {
  ffi::Dictionary& dict;
  template <class T>
  T get(const char* name) const {
    using Read = std::conditional_t<std::is_same_v<T, std::string>, std::string_view, T>;
    const auto value = dict.get<Read>(name);
    require(value.has_value(), std::string("attribute missing or of another type: ") + name);
    return T(*value);
  }
};

class XlaSource {
 public:
  XlaSource(ffi::RemainingArgs& args, ffi::RemainingRets& rets, ffi::Dictionary& attrs)
      : args_(args), rets_(rets), attrs_{attrs}, order_(args.size(), rets.size()) {}

  template <class P>
  P get() {
    if constexpr (Param<P>::is_list) {
      P list;
      for (size_t n = order_.listed<P>(); n > 0; --n)
        list.each.push_back(get<typename Param<P>::One>());
      return list;
    } else if constexpr (Param<P>::is_view) {
      const ffi::AnyBuffer buffer = next<P>();
      P view{static_cast<decltype(view.data)>(buffer.untyped_data()), {}};
      const auto dims = buffer.dimensions();
      set_shape(view, [&](int64_t i) { return dims[i]; }, static_cast<int64_t>(dims.size()));
      return view;
    } else {
      return attributes<P>(attrs_);
    }
  }
  template <class P>
  bool matches() {
    if constexpr (Param<P>::is_list) {
      for (size_t n = order_.listed<P>(); n > 0; --n)
        if (!matches<typename Param<P>::One>()) return false;
    } else if constexpr (Param<P>::is_view) {
      if (!order_.has_next<P>()) return false;
      const ffi::AnyBuffer buffer = next<P>();
      return buffer.element_type() == kXlaType<typename Param<P>::Element> &&
             takes_rank<P>(static_cast<int64_t>(buffer.dimensions().size()));
    }
    return true;
  }
  bool exhausted() const { return order_.exhausted(); }

 private:
  template <class P>
  ffi::AnyBuffer next() {
    if constexpr (Param<P>::is_input)
      return args_.get<ffi::AnyBuffer>(order_.in++).value();
    else
      return *rets_.get<ffi::AnyBuffer>(order_.out++).value();
  }
  ffi::RemainingArgs& args_;
  ffi::RemainingRets& rets_;
  XlaAttributes attrs_;
  Order order_;
};

// Calls the first of the functions, instantiations for other element types, that fits the buffers.
template <auto... fns, class Where>
ffi::Error call_first(XlaSource source, const Where& where) {
  try {
    const auto run = [&](const auto& function) { function(where); };
    const bool found =
        ((Signature<fns>::matches(source) && (Signature<fns>::call(source, run), true)) || ...);
    return found ? ffi::Error::Success()
                 : ffi::Error::InvalidArgument("no kernel for these ranks and element types");
  } catch (const std::invalid_argument& e) {
    return ffi::Error::InvalidArgument(e.what());
  } catch (const std::exception& e) {
    return ffi::Error::Internal(e.what());
  }
}

template <auto... fns>
struct XlaHandler {
  static ffi::Error call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                         ffi::Dictionary attrs) {
    IeeeSubnormals guard;
    XlaExecutor executor(pool);
    return call_first<fns...>(XlaSource(args, rets, attrs), Parallel(executor));
  }
  static XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame) {
    static auto* handler = ffi::Ffi::Bind()
                               .Ctx<ffi::ThreadPool>()
                               .RemainingArgs()
                               .RemainingRets()
                               .Attrs()
                               .To(&call)
                               .release();
    return handler->Call(frame);
  }
};

}  // namespace bitlaw::bind
