// Runs a loop in fixed chunks on whatever threads the caller owns.
//
// Chunks depend on the loop alone, never on the number of threads, so neither do results. The
// calling thread takes part and afterwards waits only for chunks that are already running: queued
// helpers that never get a thread (XLA may run handlers ON its own pool) cannot block it.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "core/float_environment.hpp"
#include "core/view.hpp"

namespace bitlaw {

// Below this many elements a loop stays on the calling thread.
inline constexpr int64_t kSerial = 32 * 1024;

class Executor {
 public:
  virtual ~Executor() = default;
  virtual int64_t threads() const = 0;  // how many may run at once, the caller included
  virtual void schedule(std::function<void()> task) = 0;
};

class Parallel {
 public:
  Parallel() = default;  // everything on the calling thread
  explicit Parallel(Executor& executor) : executor_(&executor) {}

  int64_t threads() const { return executor_ ? executor_->threads() : 1; }

  // Calls body(begin, end) for consecutive chunks of at most `grain` indices of [0, n).
  template <class Body>
  void operator()(int64_t n, int64_t grain, const Body& body) const {
    grain = std::max<int64_t>(grain, 1);
    const int64_t chunks = (n + grain - 1) / grain;
    auto chunk = [&](int64_t c) { body(c * grain, std::min(n, (c + 1) * grain)); };
    const int64_t helpers = executor_ ? std::min(executor_->threads(), chunks) - 1 : 0;
    if (helpers <= 0) {
      for (int64_t c = 0; c < chunks; ++c) chunk(c);
      return;
    }
    auto job = std::make_shared<Job>(chunks, std::ref(chunk));
    try {
      for (int64_t h = 0; h < helpers; ++h) executor_->schedule([job] { job->work(); });
    } catch (...) {  // fewer helpers, no thread or memory for more: this thread does their share
    }
    job->work();
    job->wait();
  }

 private:
  struct Job {
    Job(int64_t chunks, std::function<void(int64_t)> body)
        : chunks(chunks), body(std::move(body)) {}

    void work() {
      IeeeSubnormals guard;
      for (int64_t c; (c = next.fetch_add(1)) < chunks;) {
        try {
          body(c);
        } catch (...) {
          std::lock_guard lock(mutex);
          error = std::current_exception();
        }
        if (done.fetch_add(1) + 1 == chunks) {
          std::lock_guard lock(mutex);
          finished.notify_all();
        }
      }
    }
    void wait() {
      std::unique_lock lock(mutex);
      finished.wait(lock, [&] { return done.load() == chunks; });
      if (error) std::rethrow_exception(error);
    }

    const int64_t chunks;
    const std::function<void(int64_t)> body;  // refers to the caller's stack: valid until wait()
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
    std::exception_ptr error;
  };

  Executor* executor_ = nullptr;
};

// How many items of `size` elements make a chunk worth a thread.
inline int64_t items_per_chunk(int64_t size) {
  return std::max<int64_t>(1, kSerial / std::max<int64_t>(1, size));
}

}  // namespace bitlaw
