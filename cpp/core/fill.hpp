// Filling the rows of a plan: tokens, segment ids, positions, loss mask, sequence boundaries.
#pragma once
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "core/parallel.hpp"

namespace bitlaw {

// Bytes of rows from which on they are written past the caches: more than most hold. (Streams of 32
// MB took a tenth longer so, rows of 400 MB and more an eighth less.)
inline constexpr int64_t kPastCaches = int64_t{1} << 26;

struct FillAttrs {
  int64_t rows, capacity, max_segments;
  static constexpr auto fields() {
    return std::tuple{Field{"rows", &FillAttrs::rows}, Field{"capacity", &FillAttrs::capacity},
                      Field{"max_segments", &FillAttrs::max_segments}};
  }
};

// A piece: n tokens from `from` on, their loss bytes, and where in its row they go.
struct Piece {
  const uint8_t *from, *loss;
  int64_t begin, n, i;
};

// The pieces in the order they lie in, and where each row's begin. Beside each other, since looking
// each up in five arrays took a third of the time of filling.
struct Layout {
  std::vector<Piece> piece;
  std::vector<int64_t> begin;

  template <class PieceOf>
  Layout(View<const int64_t, 1> row, int64_t rows, const PieceOf& piece_of)
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
    for (int64_t i = 0; i < n; ++i) piece[at[row.data[i]]++] = piece_of(i);
    const auto before = [](const Piece& p, const Piece& q) {
      return p.begin != q.begin ? p.begin < q.begin : p.i < q.i;
    };
    for (int64_t r = 0; r < rows; ++r)
      std::sort(piece.begin() + begin[r], piece.begin() + begin[r + 1], before);
  }
};

// Sixteen bytes at once. `past` the caches where more is written than they hold: a line that is
// written whole is then not read first.
using Four [[gnu::vector_size(16)]] = int32_t;

template <bool past>
inline void put(void* to, Four x) {
#if defined(__x86_64__)
  if constexpr (past) return _mm_stream_si128(static_cast<__m128i*>(to), std::bit_cast<__m128i>(x));
#endif
  std::memcpy(to, &x, sizeof x);
}

// How many items each part has.
inline void part_lengths(const Parallel&, Parts parts, View<int64_t, 1> length) {
  std::copy_n(parts.length, parts.size, length.data);
}

// Writes the rows of a layout, as fill_rows says.
template <bool past>
struct Filling {
  const Layout& layout;
  View<uint8_t, 2> out, out_loss;
  View<int32_t, 2> segment, position, cu_seqlens, cu_seqlens_padded;
  int64_t width, capacity, max_segments;

  void pad(int64_t r, int64_t begin, int64_t n) const {
    std::memset(out.item(r) + begin * width, 0, n * width);
    std::memset(out_loss.item(r) + begin, 0, n);
    std::fill_n(segment.item(r) + begin, n, 0);
    std::fill_n(position.item(r) + begin, n, 0);
  }
  // Sixteen tokens, ids and positions at a time: reading a piece, which lies wherever it did, goes
  // on while these are written, and so does asking for the beginning of the next.
  void place(int64_t r, const Piece& p, int32_t id, const Piece& next) const {
    const int64_t at = r * capacity + p.begin, width = this->width;
    int32_t *ids = segment.data + at, *positions = position.data + at;
    uint8_t* tokens = out.data + at * width;
    const uint8_t *from = p.from, *soon = next.from;
    const int64_t head = std::min(p.n, -at & 15), whole = head + (p.n - head) / 16 * 16;
    const int64_t ahead = width ? std::min(next.n, 4096 / width) : 0;
    const auto edge = [&](int64_t j, int64_t to) {
      std::memcpy(tokens + j * width, from + j * width, (to - j) * width);
      std::fill(ids + j, ids + to, id);
      std::iota(positions + j, positions + to, static_cast<int32_t>(j));
    };
    edge(0, head);
    const Four same = Four{} + id;
    Four count = Four{0, 1, 2, 3} + static_cast<int32_t>(head);
    for (int64_t j = head; j < whole; j += 16) {
      if (j < ahead) __builtin_prefetch(soon + j * width);
      for (int64_t b = j * width; b < (j + 16) * width; b += 16) {
        Four x;
        std::memcpy(&x, from + b, sizeof x);
        put<past>(tokens + b, x);
      }
      for (int64_t k = j; k < j + 16; k += 4) put<past>(ids + k, same);
      for (int64_t k = j; k < j + 16; k += 4, count += 4) put<past>(positions + k, count);
    }
    edge(whole, p.n);
    uint8_t* loss = out_loss.data + at;
    if (p.loss)
      std::memcpy(loss, p.loss, p.n);
    else
      std::memset(loss, 1, p.n);
    *loss = 0;
  }
  void row(int64_t r, const Piece* end_of_pieces) const {
    int32_t *sums = cu_seqlens.item(r), *starts = cu_seqlens_padded.item(r);
    int64_t end = 0, id = 0, sum = 0;
    for (int64_t m = layout.begin[r]; m < layout.begin[r + 1]; ++m) {
      const Piece& p = layout.piece[m];
      const auto refuse = [&](const char* why) {
        throw std::invalid_argument("piece " + std::to_string(p.i) + " of row " +
                                    std::to_string(r) + " " + why);
      };
      if (id == max_segments) refuse("is one more than max_segments");
      if (p.begin < end) refuse("overlaps another");
      pad(r, end, p.begin - end);
      place(r, p, static_cast<int32_t>(id + 1), &p + 1 < end_of_pieces ? *(&p + 1) : p);
      sums[id] = static_cast<int32_t>(sum);
      starts[id] = static_cast<int32_t>(p.begin);
      ++id;
      sum += p.n;
      end = p.begin + p.n;
    }
    pad(r, end, capacity - end);
    std::fill(sums + id, sums + max_segments + 1, static_cast<int32_t>(sum));
    std::fill(starts + id, starts + max_segments + 1, static_cast<int32_t>(end));
  }
};

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
  const Layout layout(row, a.rows, [&](int64_t i) -> Piece {
    const int64_t p = part.data[i], at = source.data[i], n = length.data[i], begin = start.data[i];
    const auto refuse = [&](const char* why) {
      throw std::invalid_argument("piece " + std::to_string(i) + " of row " +
                                  std::to_string(row.data[i]) + " " + why);
    };
    if (n < 1 || begin < 0 || n > a.capacity - begin) refuse("reaches out of the row");
    if (p < 0 || p >= tokens.size || at < 0 || at > tokens.length[p] - n)
      refuse("reaches out of the tokens");
    return {tokens.data[p] + at * width, loss.size ? loss.data[p] + at : nullptr, begin, n, i};
  });
  // Few large chunks: two threads that touch one new huge page would both have it cleared.
  const int64_t tokens_per_chunk = std::clamp<int64_t>(a.rows * a.capacity / 8, 1 << 13, 1 << 19);
  const auto fill = [&]<bool past>() {
    const Filling<past> rows{layout,     out,           out_loss,          segment,
                             position,   cu_seqlens,    cu_seqlens_padded, width,
                             a.capacity, a.max_segments};
    const int64_t rows_per_chunk = tokens_per_chunk / std::max<int64_t>(1, a.capacity);
    par(a.rows, rows_per_chunk, [&](int64_t from, int64_t to) {
      const Piece* end = layout.piece.data() + layout.begin[to];
      for (int64_t r = from; r < to; ++r) rows.row(r, end);
#if defined(__x86_64__)
      if constexpr (past) _mm_sfence();
#endif
    });
  };
  const auto at_line = [](const void* to) { return reinterpret_cast<uintptr_t>(to) % 64 == 0; };
  if (a.rows * a.capacity * (width + 9) >= kPastCaches && at_line(out.data) &&
      at_line(segment.data) && at_line(position.data))
    fill.template operator()<true>();
  else
    fill.template operator()<false>();
}

}  // namespace bitlaw
