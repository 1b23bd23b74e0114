// Stretches of a row mapped to the grid, in pieces that stay in the first-level cache.
#pragma once
#include <numeric>

#include "core/avx512.hpp"
#include "core/code.hpp"
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
  int64_t bits = 0;  // of packed codes, which are written instead of values; 0: values
};

// Elements whose scales are taken, and which then are mapped, while they stay in the caches.
inline constexpr int64_t kUnit = 8192;
// Elements mapped at a time where thresholds or floats are kept beside them: those then stay in the
// first-level cache, and memory is read and written between computations. (Groups that do not come
// in pieces of this size are mapped a unit at a time.)
inline constexpr int64_t kPiece = 2048;

template <class E>
class Buffer {
 public:
  // Room for n elements and a chunk more.
  E* at_least(int64_t n) {
    if (static_cast<int64_t>(data_.size()) < n + kChunk) data_.resize(n + kChunk);
    return data_.data();
  }

 private:
  std::vector<E> data_;
};

// The memory of one thread, kept from call to call.
struct Scratch {
  Buffer<float> by, step, zero, low, threshold, staged;
  Buffer<int32_t> flags;
  Buffer<int16_t> short_flags;
  Buffer<uint8_t> codes;
  static Scratch& of_thread() {
    static thread_local Scratch scratch;
    return scratch;
  }

  template <class T>
  Flag<T>* flags_of(int64_t n) {
    if constexpr (sizeof(T) == 2)
      return short_flags.at_least(n);
    else
      return flags.at_least(n);
  }
};

// Consecutive elements of a row and where their results go.
template <class T>
struct Stretch {
  const T* x;
  T* y;
  uint8_t *mask, *codes;
  int64_t n, first;  // first: number of the first column
  Noise noise;
  Grid grid;
  const T* ahead;  // what is read after this

  // Elements [from, from + count); `from` is a multiple of 8.
  Stretch part(int64_t from, int64_t count, int64_t bits) const {
    Stretch s = *this;
    s.x += from, s.y += from, s.ahead += from, s.first += from, s.n = count;
    if (mask) s.mask += from / 8;
    if (codes) s.codes += from / 8 * bits;
    return s;
  }
};

// ---- leaves ----------------------------------------------------------------------------------

// What x is multiplied or divided by, for each scale.
struct Inverses {
  BITLAW_LEAF static void run(const float* scale, float* by, int64_t n, bool divided) {
    if (divided) {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) by[i] = divisor_of(scale[i]);
    } else {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) by[i] = inverse_of(scale[i]);
    }
  }
};

// NarrowTo, with zeros where x has them: pruned weights.
template <class T>
struct NarrowPruned {
  BITLAW_LEAF static void run(const T* x, const float* level, T* y, int64_t n) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) {
      const int32_t kept = -static_cast<int32_t>(to_float(x[i]) != 0.0f);
      y[i] = Narrow<T>::from(float_of(bits_of(level[i]) & kept));
    }
  }
};

// ---- a stretch -------------------------------------------------------------------------------

template <class T>
class Mapper {
 public:
  // `columns`: stretches come with numbers for each element.
  Mapper(const Choices& c, bool flags, bool columns) : c_(c), flags_(flags) {
    constexpr bool f32 = std::is_same_v<T, float>;
    staged_first_ = c.hadamard > 0 || (c.statistic == Statistic::mse_search && !f32);
    staged_ = staged_first_ || c.bits > 0 || c.pruned || (columns && !f32);
    with_element(element_of(c.kind, c.scaling), [&]<Element kElement>() {
      if (columns)
        map_floats_ = of_columns<kElement>();
      else if (staged_)
        map_floats_ = of_groups<float, kElement>();
      else
        map_ = of_groups<T, kElement>();
    });
  }

  // What scales are taken from, where that is not x: the stretch as floats, rotated where that is
  // asked for; else null. Called before the stretch is mapped.
  const float* stage(const Stretch<T>& s, Scratch& scratch) const {
    if (!staged_first_) return nullptr;
    float* const staged = scratch.staged.at_least(s.n);
    widen(s, staged);
    return staged;
  }

  // Maps `count` groups of `block` elements each: all of the stretch.
  void groups(const Stretch<T>& s, Scratch& scratch, const float* scale, const float* zero,
              int64_t count, int64_t block) const {
    if (block < kChunk) return columns(s, scratch, expand(scratch, scale, zero, count, block));
    float* by = scratch.by.at_least(count);
    on_isa<Inverses>(scale, by, count, c_.scaling == Scaling::e4m3);
    const float* step = scale;
    if (c_.bits) step = std::fill_n(scratch.step.at_least(count), count, 1.0f) - count;
    in_pieces(s, scratch, {by, step, zero}, count, block);
  }

  // Maps a stretch whose elements have their numbers each.
  void columns(const Stretch<T>& s, Scratch& scratch, Factors m) const {
    in_pieces(s, scratch, m, s.n, 1);
  }

  // The numbers of groups, repeated for each of their elements.
  Factors expand(Scratch& scratch, const float* scale, const float* zero, int64_t count,
                 int64_t block) const {
    const int64_t n = count * block;
    float *by = scratch.by.at_least(n), *step = scratch.step.at_least(n);
    float* zeros = zero ? scratch.zero.at_least(n) : nullptr;
    for (int64_t i = 0; i < n; ++i) step[i] = scale[i / block];
    for (int64_t i = 0; i < n && zero; ++i) zeros[i] = zero[i / block];
    on_isa<Inverses>(static_cast<const float*>(step), by, n, c_.scaling == Scaling::e4m3);
    if (c_.bits) std::fill_n(step, n, 1.0f);
    return {by, step, zeros};
  }

 private:
  template <class E>
  using Leaf = void (*)(const E*, E*, Flag<E>*, const float*, Factors, int64_t, int64_t, const E*,
                        Common);
  template <class Map, class E>
  static Leaf<E> leaf() {
    return [](auto... a) { on_isa<Map>(a...); };
  }
  template <class E, Element kElement>
  Leaf<E> of_groups() const {
    if (c_.rounding == Rounding::nearest)
      return flags_ ? leaf<MapGroups<E, kElement, true, true>, E>()
                    : leaf<MapGroups<E, kElement, true, false>, E>();
    return flags_ ? leaf<MapGroups<E, kElement, false, true>, E>()
                  : leaf<MapGroups<E, kElement, false, false>, E>();
  }
  template <Element kElement>
  Leaf<float> of_columns() const {
    if (c_.rounding != Rounding::nearest) return leaf<MapColumns<kElement, false, true>, float>();
    return flags_ ? leaf<MapColumns<kElement, true, true>, float>()
                  : leaf<MapColumns<kElement, true, false>, float>();
  }

  // Pieces are of whole groups, or of one.
  void in_pieces(const Stretch<T>& s, Scratch& scratch, Factors m, int64_t count,
                 int64_t block) const {
    const int64_t step = count == 1 ? 1 : std::lcm<int64_t>(block, kRandomRun);
    const bool nearest = c_.rounding == Rounding::nearest;
    const bool whole = (map_ && nearest) || staged_first_ || step > kPiece;
    const int64_t piece = whole ? s.n : kPiece / step * step;
    for (int64_t from = 0; from < s.n; from += piece) {
      const int64_t n = std::min(piece, s.n - from), group = count == 1 ? 0 : from / block;
      const Factors of = {m.by + group, m.step + group, m.zero ? m.zero + group : nullptr};
      map_piece(s.part(from, n, c_.bits), scratch, of, count == 1 ? 1 : n / block,
                count == 1 ? n : block);
    }
  }

  void map_piece(const Stretch<T>& s, Scratch& scratch, Factors m, int64_t count,
                 int64_t block) const {
    if (staged_ && !staged_first_) widen(s, scratch.staged.at_least(s.n));
    if (c_.rounding != Rounding::nearest) {
      float* const u = scratch.threshold.at_least(s.n);
      if (c_.rounding == Rounding::stochastic)
        on_isa<UniformColumns>(u, s.first, s.first + s.n, s.noise);
      else
        std::fill_n(u, s.n, c_.rounding == Rounding::away ? 0.0f : kNever);
    }
    map(s, scratch, m, count, block);
    if (c_.bits) {
      const uint8_t* codes = scratch.codes.at_least(s.n);
      with_bits(c_.bits, [&]<int k>() { on_isa<PackCodes<k>>(codes, s.codes, s.n); });
    } else if (staged_) {
      narrow(s, scratch.staged.at_least(s.n));
    }
    if (!flags_) return;
    if (map_)
      on_isa<PackWideFlags<Flag<T>>>(static_cast<const Flag<T>*>(scratch.flags_of<T>(s.n)), s.mask,
                                     s.n);
    else
      on_isa<PackWideFlags<int32_t>>(static_cast<const int32_t*>(scratch.flags.at_least(s.n)),
                                     s.mask, s.n);
  }

  // To scratch memory and back, rotated on the way where that is asked for.
  void widen(const Stretch<T>& s, float* staged) const {
    if constexpr (std::is_same_v<T, float>)
      if (c_.hadamard) return rotate(s.x, staged, s.n, c_.hadamard);
    on_isa<Widen<T>>(s.x, staged, s.n);
    if (c_.hadamard) rotate(staged, staged, s.n, c_.hadamard);
  }
  void narrow(const Stretch<T>& s, float* staged) const {
    if constexpr (std::is_same_v<T, float>)
      if (c_.hadamard) return rotate(staged, s.y, s.n, c_.hadamard);
    if (c_.hadamard) rotate(staged, staged, s.n, c_.hadamard);
    const float* y = staged;
    if (c_.pruned)
      on_isa<NarrowPruned<T>>(s.x, y, s.y, s.n);
    else
      on_isa<NarrowTo<T>>(y, s.y, s.n);
  }

  void map(const Stretch<T>& s, Scratch& scratch, Factors m, int64_t count, int64_t block) const {
    const float* u = c_.rounding == Rounding::nearest ? nullptr : scratch.threshold.at_least(s.n);
    const Common common{s.grid, pass_of(c_.estimator, c_.kind, s.grid),
                        c_.rounding == Rounding::toward_zero ? 0.0f : -1.0f,
                        smallest_level(c_.kind, s.grid)};
    if (map_) return map_(s.x, s.y, scratch.flags_of<T>(s.n), u, m, count, block, s.ahead, common);
    int32_t* flags = scratch.flags.at_least(s.n);
    float* const floats = staged_ ? scratch.staged.at_least(s.n) : nullptr;
    if constexpr (std::is_same_v<T, float>)
      if (!staged_) return map_floats_(s.x, s.y, flags, u, m, count, block, s.ahead, common);
    const float* ahead = floats;
    if constexpr (std::is_same_v<T, float>) ahead = s.ahead;
    map_floats_(floats, floats, flags, u, m, count, block, ahead, common);
    if (c_.bits)
      on_isa<EncodeLevels>(static_cast<const float*>(floats), scratch.codes.at_least(s.n),
                           c_.kind == Kind::affine ? m.zero : nullptr, count, block, s.grid,
                           c_.kind, c_.bits);
  }

  const Choices c_;
  const bool flags_;
  bool staged_;        // mapped as floats in scratch memory
  bool staged_first_;  // which the statistic is taken from, too
  Leaf<T> map_ = nullptr;
  Leaf<float> map_floats_ = nullptr;
};

}  // namespace bitlaw
