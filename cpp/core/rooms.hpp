// The room left in rows, kept so that a row for a length is found in O(log rows).
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace bitlaw {

// A maximum tree over blocks of rows, growing with them: the first row at or after another that has
// the room. A block is a few cache lines of 32-bit rooms, so the tree above it stays in cache.
class FirstRoom {
 public:
  int64_t rows() const { return rows_; }
  int32_t operator[](int64_t row) const { return room_[row]; }

  void open(int32_t room) {
    if (rows_ == static_cast<int64_t>(room_.size())) grow();
    ++rows_;
    set(rows_ - 1, room);
  }

  void set(int64_t row, int32_t room) {
    room_[row] = room;
    const int64_t block = row / kBlock;
    int32_t most = room_[block * kBlock];
    for (int64_t j = 1; j < kBlock; ++j) most = std::max(most, room_[block * kBlock + j]);
    int64_t node = blocks_ + block;
    while (node && tree_[node] != most) {
      tree_[node] = most;
      node /= 2;
      if (node) most = std::max(tree_[2 * node], tree_[2 * node + 1]);
    }
  }

  // The first row >= from with room for `length`; rows() where there is none.
  int64_t find(int64_t from, int32_t length) const {
    if (from >= rows_) return rows_;
    int64_t node = blocks_ + from / kBlock;
    if (tree_[node] >= length)
      if (const int64_t row = scan(from, length); row >= 0) return row;
    // Up to the first subtree to the right that has the room, then down to its first block.
    while (node & 1 || tree_[node + 1] < length) {
      node /= 2;
      if (node <= 1) return rows_;
    }
    ++node;
    while (node < blocks_) node = 2 * node + (tree_[2 * node] < length);
    return scan((node - blocks_) * kBlock, length);
  }

 private:
  static constexpr int64_t kBlock = 64, kStep = 16;
  static constexpr int32_t kNone = -1;  // rows not opened yet

  // The first row from `row` to the end of its block that has the room, or -1.
  int64_t scan(int64_t row, int32_t length) const {
    const int64_t end = (row / kBlock + 1) * kBlock;
    for (; row % kStep; ++row)
      if (room_[row] >= length) return row;
    for (; row < end; row += kStep) {
      int32_t any = 0;
      for (int64_t j = 0; j < kStep; ++j) any |= room_[row + j] >= length;
      if (any)
        for (;; ++row)
          if (room_[row] >= length) return row;
    }
    return -1;
  }

  void grow() {
    blocks_ = std::max<int64_t>(2, 2 * blocks_);
    room_.resize(blocks_ * kBlock, kNone);
    tree_.assign(2 * blocks_, kNone);
    for (int64_t b = 0; b < blocks_; ++b)
      tree_[blocks_ + b] = *std::max_element(&room_[b * kBlock], &room_[b * kBlock] + kBlock);
    for (int64_t node = blocks_ - 1; node > 0; --node)
      tree_[node] = std::max(tree_[2 * node], tree_[2 * node + 1]);
  }

  int64_t rows_ = 0, blocks_ = 0;
  std::vector<int32_t> room_, tree_;
};

// The numbers of [0, n) that are set, 64 to a word, word upon word: the next one in O(log_64 n).
class Numbers {
 public:
  explicit Numbers(int64_t n) {
    do {
      n = (n + 63) / 64;
      levels_.emplace_back(n);
    } while (n > 1);
  }
  void insert(int64_t i) {
    for (auto& words : levels_) {
      words[i / 64] |= uint64_t{1} << (i % 64);
      i /= 64;
    }
  }
  void erase(int64_t i) {
    for (auto& words : levels_) {
      if (words[i / 64] &= ~(uint64_t{1} << (i % 64))) return;
      i /= 64;
    }
  }
  // The least that is set and >= i, or -1.
  int64_t next(int64_t i) const {
    for (size_t level = 0; level < levels_.size(); ++level) {
      if (i / 64 >= static_cast<int64_t>(levels_[level].size())) return -1;
      if (const uint64_t word = levels_[level][i / 64] >> (i % 64)) {
        i += std::countr_zero(word);
        while (level--) i = 64 * i + std::countr_zero(levels_[level][i]);
        return i;
      }
      i = i / 64 + 1;
    }
    return -1;
  }

 private:
  std::vector<std::vector<uint64_t>> levels_;
};

// Rows by the room they have left, the last placed first among equals.
class BestRoom {
 public:
  explicit BestRoom(int64_t capacity) : taken_(capacity + 1), first_(capacity + 1, -1) {}

  // The row with least room, `length` at least, for which fits(row); taken out. Or -1.
  template <class Fits>
  int64_t take(int32_t length, const Fits& fits) {
    for (int64_t room = length; (room = taken_.next(room)) >= 0; ++room)
      for (int32_t* row = &first_[room]; *row >= 0; row = &next_[*row])
        if (fits(*row)) {
          const int64_t found = std::exchange(*row, next_[*row]);
          if (first_[room] < 0) taken_.erase(room);
          return found;
        }
    return -1;
  }
  void put(int64_t row, int32_t room) {
    if (row >= static_cast<int64_t>(next_.size())) next_.resize(row + 1 + row / 2);
    next_[row] = std::exchange(first_[room], static_cast<int32_t>(row));
    taken_.insert(room);
  }

 private:
  Numbers taken_;
  std::vector<int32_t> first_, next_;
};

}  // namespace bitlaw
