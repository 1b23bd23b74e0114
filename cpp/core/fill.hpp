// Filling the rows of a plan: tokens, segment ids, positions, loss mask, sequence boundaries.
#pragma once
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

struct FillAttrs {
  int64_t rows, capacity, max_segments;
  static constexpr auto fields() {
    return std::tuple{Field{"rows", &FillAttrs::rows}, Field{"capacity", &FillAttrs::capacity},
                      Field{"max_segments", &FillAttrs::max_segments}};
  }
};

// The pieces in the order they lie in, and where each row's begin.
struct Layout {
  std::vector<int64_t> piece, begin;

  Layout(View<const int64_t, 1> row, View<const int64_t, 1> start, int64_t rows)
      : piece(row.shape[0]), begin(rows + 1) {
    const int64_t n = row.shape[0];
    for (int64_t i = 0; i < n; ++i) {
      if (row.data[i] < 0 || row.data[i] >= rows)
        throw std::invalid_argument("row must be in [0, " + std::to_string(rows) + "), got " +
                                    std::to_string(row.data[i]) + " at " + std::to_string(i));
      ++begin[row.data[i] + 1];
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<int64_t> at(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < n; ++i) piece[at[row.data[i]]++] = i;
    const auto before = [&](int64_t i, int64_t j) { return start.data[i] < start.data[j]; };
    for (int64_t r = 0; r < rows; ++r) {
      const auto first = piece.begin() + begin[r], last = piece.begin() + begin[r + 1];
      if (!std::is_sorted(first, last, before)) std::stable_sort(first, last, before);
    }
  }
};

// One piece's share of three rows.
struct FillPiece {
  BITLAW_LEAF static void run(int32_t* segment, int32_t* position, int64_t n, int32_t id) {
    for (int64_t j = 0; j < n; ++j) {
      segment[j] = id;
      position[j] = static_cast<int32_t>(j);
    }
  }
};

// Asks for the beginning of a piece, which lies wherever it did, while another is written.
inline void prefetch(Parts tokens, View<const int64_t, 1> part, View<const int64_t, 1> source,
                     View<const int64_t, 1> length, int64_t i) {
  const int64_t p = part.data[i], at = source.data[i];
  if (p < 0 || p >= tokens.size || at < 0 || at >= tokens.length[p]) return;
  const int64_t items = std::min(length.data[i], tokens.length[p] - at);
  const int64_t bytes = std::min<int64_t>(items * tokens.width, 4096);
  const uint8_t* from = tokens.data[p] + at * tokens.width;
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(from + b);
}

// How many items each part has.
inline void part_lengths(const Parallel&, Parts parts, View<int64_t, 1> length) {
  std::copy_n(parts.length, parts.size, length.data);
}

// Piece i is length[i] tokens of tokens[part[i]] from source[i] on; loss is a byte of each, or
// without parts. A row's segment ids count from 1, positions from 0 in each segment; a first token
// is never a target. cu_seqlens sums a row's lengths, cu_seqlens_padded are its starts, then its
// last end; both stay at the last where a row has fewer.
inline void fill_rows(const Parallel& par, Parts tokens, Parts loss, View<const int64_t, 1> part,
                      View<const int64_t, 1> source, View<const int64_t, 1> length,
                      View<const int64_t, 1> row, View<const int64_t, 1> start,
                      View<uint8_t, 2> out, View<int32_t, 2> segment, View<int32_t, 2> position,
                      View<uint8_t, 2> out_loss, View<int32_t, 2> cu_seqlens,
                      View<int32_t, 2> cu_seqlens_padded, FillAttrs a) {
  const int64_t width = tokens.width;
  require(!loss.size || (loss.size == tokens.size && loss.width == 1 &&
                         std::equal(loss.length, loss.length + loss.size, tokens.length)),
          "loss must have a byte for every token");
  const Layout layout(row, start, a.rows);
  const auto refuse = [&](int64_t i, const char* why) {
    throw std::invalid_argument("piece " + std::to_string(i) + " of row " +
                                std::to_string(row.data[i]) + " " + why);
  };
  // Few large chunks: two threads that touch one new huge page would both have it cleared.
  const int64_t tokens_per_chunk = std::clamp<int64_t>(a.rows * a.capacity / 8, 1 << 13, 1 << 19);
  par(a.rows, tokens_per_chunk / std::max<int64_t>(1, a.capacity), [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) {
      uint8_t *row_out = out.item(r), *row_loss = out_loss.item(r);
      int32_t *ids = segment.item(r), *positions = position.item(r);
      int32_t *sums = cu_seqlens.item(r), *starts = cu_seqlens_padded.item(r);
      const auto pad = [&](int64_t begin, int64_t n) {
        std::memset(row_out + begin * width, 0, n * width);
        std::memset(row_loss + begin, 0, n);
        std::fill_n(ids + begin, n, 0);
        std::fill_n(positions + begin, n, 0);
      };
      int64_t end = 0, id = 0, sum = 0;
      for (int64_t m = layout.begin[r]; m < layout.begin[r + 1]; ++m) {
        const int64_t i = layout.piece[m], n = length.data[i], begin = start.data[i];
        const int64_t p = part.data[i], at = source.data[i];
        if (id == a.max_segments) refuse(i, "is one more than max_segments");
        if (n < 1 || begin < 0 || n > a.capacity - begin) refuse(i, "reaches out of the row");
        if (begin < end) refuse(i, "overlaps another");
        if (p < 0 || p >= tokens.size || at < 0 || at > tokens.length[p] - n)
          refuse(i, "reaches out of the tokens");
        if (m + 1 < layout.begin[r + 1])
          prefetch(tokens, part, source, length, layout.piece[m + 1]);
        pad(end, begin - end);
        std::memcpy(row_out + begin * width, tokens.data[p] + at * width, n * width);
        if (loss.size)
          std::memcpy(row_loss + begin, loss.data[p] + at, n);
        else
          std::memset(row_loss + begin, 1, n);
        row_loss[begin] = 0;
        on_isa<FillPiece>(ids + begin, positions + begin, n, static_cast<int32_t>(id + 1));
        sums[id] = static_cast<int32_t>(sum);
        starts[id] = static_cast<int32_t>(begin);
        ++id;
        sum += n;
        end = begin + n;
      }
      pad(end, a.capacity - end);
      std::fill(sums + id, sums + a.max_segments + 1, static_cast<int32_t>(sum));
      std::fill(starts + id, starts + a.max_segments + 1, static_cast<int32_t>(end));
    }
  });
}

}  // namespace bitlaw
