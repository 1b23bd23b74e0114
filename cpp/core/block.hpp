// Sums over blocks of a matrix, in one fixed order: the same bits on every machine and thread.
#pragma once
#include <bit>
#include <cmath>
#include <tuple>
#include <vector>

#include "core/minifloat.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

struct BlockAttrs {
  int64_t rows, cols;
  static constexpr auto fields() {
    return std::tuple{Field{"rows", &BlockAttrs::rows}, Field{"cols", &BlockAttrs::cols}};
  }
};

// sums[b] of the |x| of `width` columns, in blocks of `rows` by `cols`: neighbours in pairs, the
// pairs in pairs, and so on, first down the rows, then across the columns. Level l of the scratch
// holds the sum of the last 2^l rows that wait for their neighbours.
template <class T>
struct SumBlocks {
  BITLAW_LEAF static void run(const T* x, int64_t stride, int64_t width, int64_t rows, int64_t cols,
                              float* levels, float* sums) {
    for (int64_t r = 0; r < rows; ++r) {
      int l = std::countr_one(static_cast<uint64_t>(r));
      float* to = levels + l * width;
      for (int64_t c = 0; c < width; ++c) to[c] = std::fabs(to_float(x[r * stride + c]));
      for (int i = 0; i < l; ++i)
        for (int64_t c = 0; c < width; ++c) to[c] += levels[i * width + c];
    }
    int first = std::countr_zero(static_cast<uint64_t>(rows));
    float* down = levels + first * width;
    for (int i = first + 1; rows >> i; ++i)
      if (rows >> i & 1)
        for (int64_t c = 0; c < width; ++c) down[c] += levels[i * width + c];
    for (int64_t b = 0; b < width / cols; ++b) {
      float* across = down + b * cols;
      for (int64_t n = cols; n > 1; n = (n + 1) / 2) {
        for (int64_t i = 0; i < n / 2; ++i) across[i] = across[2 * i] + across[2 * i + 1];
        if (n % 2) across[n / 2] = across[n - 1];
      }
      sums[b] = across[0];
    }
  }
};

// sums[item][i][j] of |x| over block (i, j).
template <class T>
void block_sum(const Parallel& par, View<const T, 3> x, View<float, 3> sums, BlockAttrs a) {
  const int64_t rows = x.shape[1], cols = x.shape[2];
  require(a.rows >= 1 && rows % a.rows == 0,
          "rows must divide axis 1 of x, got " + std::to_string(a.rows));
  require(a.cols >= 1 && cols % a.cols == 0,
          "cols must divide axis 2 of x, got " + std::to_string(a.cols));
  if (x.size() == 0) return;
  const int64_t strip = std::min(cols, std::max<int64_t>(1, 512 / a.cols) * a.cols);
  const int64_t strips = (cols + strip - 1) / strip, bands = x.shape[0] * (rows / a.rows);
  const int64_t levels = std::bit_width(static_cast<uint64_t>(a.rows));
  par(bands * strips, items_per_chunk(a.rows * strip), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(levels * strip);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t band = u / strips, first = u % strips * strip;
      on_isa<SumBlocks<T>>(x.data + band * a.rows * cols + first, cols,
                           std::min(strip, cols - first), a.rows, a.cols, scratch.data(),
                           sums.data + band * (cols / a.cols) + first / a.cols);
    }
  });
}

}  // namespace bitlaw
