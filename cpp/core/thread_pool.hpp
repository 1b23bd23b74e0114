// The threads that serve numpy calls: started at the first large call, as many as the affinity
// mask allows (BITLAW_THREADS overrides), and forgotten in a forked child, which starts its own.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <cstdlib>
#include <deque>
#include <thread>

#include "core/parallel.hpp"

namespace bitlaw {

class ThreadPool final : public Executor {
 public:
  static ThreadPool& instance() {
    static std::once_flag once;
    std::call_once(once, [] {
      current() = new ThreadPool;
      // A child has no threads but the one that forked: leak the parent's pool, whose mutex may be
      // held by nobody alive, and begin anew.
      pthread_atfork(nullptr, nullptr, [] { current() = new ThreadPool; });
    });
    return *current();
  }

  int64_t threads() const override { return threads_; }

  void schedule(std::function<void()> task) override {
    std::lock_guard lock(mutex_);
    if (started_ < threads_ - 1 && idle_ <= static_cast<int64_t>(tasks_.size())) {
      std::thread([this] { serve(); }).detach();  // may throw: then the task is not queued
      ++started_;
    }
    tasks_.push_back(std::move(task));
    ready_.notify_one();
  }

 private:
  ThreadPool() : threads_(allowed()) {}

  static ThreadPool*& current() {
    static ThreadPool* pool = nullptr;
    return pool;
  }

  static int64_t allowed() {
    if (const char* text = std::getenv("BITLAW_THREADS"); text && *text) {
      char* end = nullptr;
      const long n = std::strtol(text, &end, 10);
      require(!*end && n >= 1 && n <= 1024,
              std::string("BITLAW_THREADS must be 1 to 1024, got ") + text);
      return n;
    }
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1u, std::thread::hardware_concurrency());
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      ready_.wait(lock, [&] { return !tasks_.empty(); });
      --idle_;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
  }

  const int64_t threads_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  int64_t started_ = 0, idle_ = 0;
};

}  // namespace bitlaw
