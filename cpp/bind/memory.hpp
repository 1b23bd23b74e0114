// Memory of large arrays, used again: having new pages cleared takes the kernel as long as filling.
#pragma once
#include <pybind11/numpy.h>
#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <vector>

namespace bitlaw::bind {
namespace py = pybind11;

// Blocks that no array lies in. The pages of large ones are the kernel's to take when memory is
// short; for small ones telling it so takes too long. The GIL guards them.
class Blocks {
 public:
  static Blocks& instance() {
    static Blocks* blocks = new Blocks;  // outlives every array
    return *blocks;
  }

  struct Block {
    void* data;
    size_t size;
  };

  // The smallest that is large enough, and not twice as large; else a new one.
  Block take(size_t size) {
    size = (size + kPage - 1) / kPage * kPage;
    auto best = free_.end();
    for (auto b = free_.begin(); b != free_.end(); ++b)
      if (b->size >= size && b->size < 2 * size && (best == free_.end() || b->size < best->size))
        best = b;
    if (best != free_.end()) {
      const Block block = *best;
      free_.erase(best);
      return block;
    }
    void* data = std::aligned_alloc(kPage, size);
    if (!data) throw std::bad_alloc();
    madvise(data, size, MADV_HUGEPAGE);
    return {data, size};
  }
  void give(Block block) {
    if (block.size >= kLent) madvise(block.data, block.size, MADV_FREE);
    if (free_.size() == kMost) {
      std::free(free_.front().data);
      free_.erase(free_.begin());
    }
    free_.push_back(block);
  }

 private:
  static constexpr size_t kPage = size_t{1} << 21, kLent = size_t{1} << 23, kMost = 16;
  std::vector<Block> free_;
};

// u8[size]; the arrays that lie in it keep it.
inline py::array_t<uint8_t> memory(size_t size) {
  auto* block = new Blocks::Block(Blocks::instance().take(size));
  const py::capsule owner(block, [](void* of) {
    Blocks::instance().give(*static_cast<Blocks::Block*>(of));
    delete static_cast<Blocks::Block*>(of);
  });
  return py::array_t<uint8_t>(size, static_cast<uint8_t*>(block->data), owner);
}

}  // namespace bitlaw::bind
