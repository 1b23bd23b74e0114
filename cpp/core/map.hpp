// Stretches of a row mapped to the grid, in pieces that stay in the first-level cache.
#pragma once
#include "core/random.hpp"
#include "core/scale.hpp"

namespace bitlaw {

// How a call quantizes: what is static under jit.
struct Choices {
  int64_t block;
  Kind kind;
  Scaling scaling;
  Rounding rounding;
  Estimator estimator;
  bool pruned;  // exact zeros are pruned weights: they stay zero and take no part in the scale
  int64_t hadamard;
  Statistic statistic;
};

// Elements worked on at a time while they stay in the first-level cache.
inline constexpr int64_t kUnit = 8192;
// Elements mapped between two looks ahead; longer groups have their numbers repeated this often.
inline constexpr int64_t kPiece = 512;

template <class E>
class Buffer {
 public:
  E* at_least(int64_t n) {
    if (static_cast<int64_t>(data_.size()) < n) data_.resize(n);
    return data_.data();
  }

 private:
  std::vector<E> data_;
};

// The memory of one thread, kept from call to call.
struct Scratch {
  Buffer<float> by, step, zero, inverse, low, threshold, staged;
  Buffer<uint8_t> flags;
  static Scratch& of_thread() {
    static thread_local Scratch scratch;
    return scratch;
  }
};

// What a stretch of elements is mapped with, an array each: multiplied (or divided) by, times step;
// affine codes moved by zero. `constant`: kPiece equal numbers that serve every piece.
struct Numbers {
  const float *by, *step, *zero;
  bool constant;
};

// Consecutive elements of a row and where their results go.
template <class T>
struct Stretch {
  const T* x;
  T* y;
  uint8_t* mask;
  int64_t n, first;  // first: number of the first column
  Noise noise;
  Grid grid;
};

// ---- leaves ----------------------------------------------------------------------------------

template <class T, Element kElement, bool kNearest, bool kFlags>
struct MapElements {
  BITLAW_LEAF static void run(const T* x, T* y, uint8_t* flags, Numbers m, const float* threshold,
                              int64_t n, int64_t ahead, Grid g, Pass pass, float least,
                              int32_t pruned) {
    for (int64_t i = 0; i < n; i += kPiece) {
      const int64_t piece = n - i < kPiece ? n - i : kPiece, at = m.constant ? 0 : i;
      // Each piece fetches its like of the next unit: the next statistic then finds its data in
      // cache while this map computes (1.6x in bench/kernels, one thread).
      for (int64_t p = 0; p < piece && ahead > 0; p += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x) +
                                                         (ahead + i + p) * sizeof(T)));
      map_piece(x + i, y + i, flags + i, m.by + at, m.step + at, m.zero + at, threshold + i, piece,
                g, pass, least, pruned);
    }
  }
  BITLAW_LEAF static void map_piece(const T* x, T* y, uint8_t* flags, const float* by,
                                    const float* step, const float* zero, const float* threshold,
                                    int64_t n, Grid g, Pass pass, float least, int32_t pruned) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) {
      const float v = to_float(x[i]), shift = kElement == Element::affine ? zero[i] : 0.0f;
      Mapped m;
      if constexpr (kNearest)
        m = map_element<kElement>(v, by[i], shift, g, NearestEven{});
      else
        m = map_element<kElement>(v, by[i], shift, g, Above{threshold[i], least});
      const int32_t drop = -(static_cast<int32_t>(v == 0.0f) & pruned);
      y[i] = Narrow<T>::from(float_of(bits_of(m.level * step[i]) & ~drop));
      if constexpr (kFlags) flags[i] = passes(m, pass, shift);
    }
  }
};

// The numbers of groups, repeated for each of their elements.
struct ExpandGroups {
  BITLAW_LEAF static void repeat(const float* x, float* y, int64_t groups, int64_t block) {
    const auto each = [&](int64_t n) {
      for (int64_t b = 0; b < groups; ++b)
        for (int64_t i = 0; i < n; ++i) y[b * n + i] = x[b];
    };
    block == 32 ? each(32) : block == 16 ? each(16) : each(block);
  }
  BITLAW_LEAF static void run(const float* scale, const float* zero, float* inverse, float* by,
                              float* step, float* zeros, int64_t groups, int64_t block,
                              bool divided) {
    if (divided) {
      BITLAW_LOOP
      for (int64_t b = 0; b < groups; ++b) inverse[b] = divisor_of(scale[b]);
    } else {
      BITLAW_LOOP
      for (int64_t b = 0; b < groups; ++b) inverse[b] = inverse_of(scale[b]);
    }
    repeat(inverse, by, groups, block);
    repeat(scale, step, groups, block);
    if (zero) repeat(zero, zeros, groups, block);
  }
};

template <class T>
struct NarrowTo {
  BITLAW_LEAF static void run(const float* x, T* y, int64_t n) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) y[i] = Narrow<T>::from(x[i]);
  }
};

// ---- a stretch -------------------------------------------------------------------------------

template <class T>
class Mapper {
 public:
  Mapper(const Choices& c, bool flags) : c_(c), flags_(flags), staged_(c.hadamard > 0) {
    const Element element = element_of(c.kind, c.scaling);
    const bool nearest = c.rounding == Rounding::nearest;
    with_element(element, [&]<Element kElement>() {
      map_ = leaf<T, kElement>(nearest, flags);
      map_staged_ = leaf<float, kElement>(nearest, flags);
    });
  }

  bool staged() const { return staged_; }

  // Thresholds, and the stretch as rotated floats where that is asked for.
  void open(const Stretch<T>& s, Scratch& scratch) const {
    if (staged_) {
      float* x = scratch.staged.at_least(s.n);
      on_isa<Widen<T>>(s.x, x, s.n);
      rotate(x, s.n, c_.hadamard);
    }
    if (c_.rounding == Rounding::nearest) return;
    float* u = scratch.threshold.at_least(s.n);
    if (c_.rounding == Rounding::stochastic)
      on_isa<UniformColumns>(u, s.first, s.first + s.n, s.noise);
    else
      std::fill_n(u, s.n, c_.rounding == Rounding::away ? 0.0f : 1.0f);
  }

  // Maps `count` groups of `block` elements each, from the stretch's first on.
  void groups(const Stretch<T>& s, Scratch& scratch, const float* scale, const float* zero,
              int64_t count, int64_t block) const {
    if (block < kPiece) {
      const Numbers m = expand(scratch, scale, zero, count, block, false);
      return map(s, scratch, 0, s.n, m);
    }
    for (int64_t b = 0; b < count; ++b) {
      const Numbers m = expand(scratch, scale + b, zero ? zero + b : nullptr, 1, kPiece, true);
      map(s, scratch, b * block, block, m);
    }
  }

  Numbers expand(Scratch& scratch, const float* scale, const float* zero, int64_t count,
                 int64_t block, bool constant) const {
    const int64_t n = count * block;
    float *by = scratch.by.at_least(n), *step = scratch.step.at_least(n);
    float* zeros = zero ? scratch.zero.at_least(n) : nullptr;
    on_isa<ExpandGroups>(scale, zero, scratch.inverse.at_least(count), by, step, zeros, count,
                         block, c_.scaling == Scaling::e4m3);
    return {by, step, zeros, constant};
  }

  // Maps elements [from, from + n) of the stretch.
  void map(const Stretch<T>& s, Scratch& scratch, int64_t from, int64_t n, Numbers m) const {
    uint8_t* flags = flags_ ? scratch.flags.at_least(s.n) + from : nullptr;
    const float* u = c_.rounding == Rounding::nearest ? nullptr : scratch.threshold.at_least(s.n);
    const Pass pass = pass_of(c_.estimator, c_.kind, s.grid);
    const float least = c_.rounding == Rounding::toward_zero ? 0.0f : -1.0f;
    const auto run = [&](auto leaf, auto* x, auto* y, int64_t ahead) {
      leaf(x, y, flags, m, u ? u + from : nullptr, n, ahead, s.grid, pass, least, c_.pruned);
    };
    if (staged_) {
      float* x = scratch.staged.at_least(s.n) + from;
      run(map_staged_, x, x, 0);
    } else {
      run(map_, s.x + from, s.y + from, s.n);
    }
  }

  void close(const Stretch<T>& s, Scratch& scratch) const {
    if (staged_) {
      float* y = scratch.staged.at_least(s.n);
      rotate(y, s.n, c_.hadamard);
      on_isa<NarrowTo<T>>(y, s.y, s.n);
    }
    if (flags_) on_isa<PackCodes<1>>(scratch.flags.at_least(s.n), s.mask, s.n);
  }

 private:
  template <class E>
  using Leaf = void (*)(const E*, E*, uint8_t*, Numbers, const float*, int64_t, int64_t, Grid, Pass,
                        float, int32_t);
  template <class E, Element kElement>
  static Leaf<E> leaf(bool nearest, bool flags) {
    const auto of = []<bool kNearest, bool kFlags>() -> Leaf<E> {
      return [](auto... a) { on_isa<MapElements<E, kElement, kNearest, kFlags>>(a...); };
    };
    if (nearest)
      return flags ? of.template operator()<true, true>() : of.template operator()<true, false>();
    return flags ? of.template operator()<false, true>() : of.template operator()<false, false>();
  }

  const Choices c_;
  const bool flags_, staged_;
  Leaf<T> map_;
  Leaf<float> map_staged_;
};

}  // namespace bitlaw
