// Times the core's ops without Python, for a profiler:
//
//     cmake -S . -B build/kernels -DBITLAW_KERNEL_BENCH=ON && cmake --build build/kernels
//     build/kernels/bitlaw_kernels [part of a name] [rounds]
//     perf record build/kernels/bitlaw_kernels "quantize row" 200
//
// BITLAW_ISA and BITLAW_THREADS apply. Whether the answers are right is tested from Python.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "core/mask.hpp"
#include "core/pack.hpp"
#include "core/quantize.hpp"
#include "core/select.hpp"
#include "core/thread_pool.hpp"

using namespace bitlaw;

namespace {

constexpr int64_t kN = 4096;

template <class T>
std::vector<T> normal(int64_t n) {
  std::mt19937 random(0);
  std::normal_distribution<float> draw;
  std::vector<T> x(n);
  for (T& v : x) v = Narrow<T>::from(draw(random));
  return x;
}

struct Options {
  std::string part;
  int rounds;
};

// Prints the fastest of `rounds` calls, GB/s for the bytes given, and the ratio to `limit` ms.
template <class Run>
double report(const Options& options, const std::string& name, double bytes, double limit,
              const Run& run) {
  if (name.find(options.part) == std::string::npos && limit > 0) return 0;
  double best = 1e30;
  for (int r = 0; r <= options.rounds; ++r) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (r) best = std::min(best, took.count());
  }
  std::printf("%-52s %9.3f ms %7.1f GB/s", name.c_str(), best * 1e3, bytes / best / 1e9);
  if (limit > 0) std::printf("  %5.2fx in-place scale", best * 1e3 / limit);
  std::printf("\n");
  return best * 1e3;
}

struct Scale {
  BITLAW_LEAF static void run(float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] *= 0.999f;
  }
};

template <class T>
void quantize_rows_of(const Options& o, const Parallel& par, double limit, const char* type) {
  auto x = normal<T>(kN * kN);
  std::vector<float> scale(kN * kN / 16), zero(kN * kN / 16);
  std::vector<uint32_t> noise(3 * kN);
  std::vector<uint8_t> mask(kN * kN / 8);
  const auto row = [&](int64_t block, const char* kind, const char* statistic, const char* scaling,
                       const char* rounding, const char* estimator) {
    const bool uniform = !std::strcmp(kind, "uniform") || !std::strcmp(kind, "affine");
    const bool none = !std::strcmp(estimator, "identity"), affine = !std::strcmp(kind, "affine");
    std::vector<float> grid;
    for (int64_t i = 0; i < kN; ++i)
      uniform ? grid.insert(grid.end(), {-7, 7, 0, 7, 1})
              : grid.insert(grid.end(), {6, 1, .5, 6, 1});
    const std::string name = std::string("quantize row block ") + std::to_string(block) + " " +
                             kind + " " + statistic + " " + scaling + " " + rounding + " " +
                             estimator + " " + type;
    QuantizeAttrs a;
    a.block = block, a.kind = kind, a.scaling = scaling, a.rounding = rounding;
    a.estimator = estimator, a.pruned = false, a.hadamard = 0, a.statistic = statistic;
    const int64_t noisy = std::strcmp(rounding, "stochastic") ? 0 : 3;
    report(o, name, 2.0 * sizeof(T) * kN * kN, limit, [&] {
      fake_quantize<T>(par, {x.data(), {kN, 1, kN}}, {grid.data(), {kN, 5}},
                       {noise.data(), {kN, noisy}}, {x.data(), {kN, 1, kN}},
                       {scale.data(), {kN, kN / block}},
                       {zero.data(), {kN, affine ? kN / block : 0}},
                       {mask.data(), {kN, 1, none ? 0 : kN / 8}}, a);
    });
  };
  for (int64_t block : {kN, int64_t{32}, int64_t{128}})
    for (const char* statistic : {"absmax", "rms"})
      for (const char* estimator : {"identity", "clip_rounded", "trust"})
        row(block, "uniform", statistic, "f32", "nearest", estimator);
  for (int64_t block : {kN, int64_t{32}}) {
    row(block, "affine", "range", "f32", "nearest", "identity");
    row(block, "float", "absmax", "e8m0_floor", "nearest", "identity");
    row(block, "nf4", "absmax", "f32", "nearest", "identity");
    row(block, "uniform", "mse_search", "f32", "nearest", "identity");
    row(block, "float", "mse_search", "e8m0_floor", "nearest", "identity");
    for (const char* rounding : {"stochastic", "toward_zero"})
      for (const char* kind : {"uniform", "float", "nf4"})
        row(block, kind, "absmax", "f32", rounding, "identity");
  }
  row(16, "float", "absmax", "e4m3", "nearest", "identity");
  const float grid[] = {-7, 7, 0, 7, 1};
  QuantizeAttrs a;
  a.block = 1, a.kind = "uniform", a.scaling = "f32", a.rounding = "nearest";
  a.estimator = "identity", a.pruned = false, a.hadamard = 0, a.statistic = "absmax";
  report(o, std::string("quantize channel absmax identity ") + type, 2.0 * sizeof(T) * kN * kN,
         limit, [&] {
           fake_quantize<T>(par, {x.data(), {1, kN, kN}}, {grid, {1, 5}}, {noise.data(), {1, 0}},
                            {x.data(), {1, kN, kN}}, {scale.data(), {1, kN}}, {zero.data(), {1, 0}},
                            {mask.data(), {1, kN, 0}}, a);
         });
  report(o, std::string("statistic absmax ") + type, 1.0 * sizeof(T) * kN * kN, limit, [&] {
    group_statistic<T>(par, {x.data(), {kN, 1, kN}}, {scale.data(), {kN, 1}},
                       {zero.data(), {kN, 0}}, {kN, "absmax", false, 0});
  });
}

template <class T>
void masks_of(const Options& o, const Parallel& par, double limit, const char* type) {
  const int64_t n = kN * kN;
  auto x = normal<T>(n);
  std::vector<uint8_t> mask(n / 8);
  const int32_t keep = n / 10;
  report(o, std::string("top_k_mask 10 % ") + type, 3.0 * sizeof(T) * n, limit,
         [&] { top_k_mask<T>(par, {x.data(), {1, n}}, {&keep, {1}}, {mask.data(), {1, n / 8}}); });
  for (bool along_rows : {false, true})
    for (int64_t m : {4, 8, 32})
      report(o, "nm_mask n:" + std::to_string(m) + (along_rows ? " down " : " along ") + type,
             1.0 * sizeof(T) * n, limit, [&] {
               nm_mask<T>(par, {x.data(), {1, kN, kN}}, {mask.data(), {1, n / 8}},
                          {m / 2, m, along_rows});
             });
  report(o, std::string("prune ") + type, 2.0 * sizeof(T) * n, limit, [&] {
    prune<T>(par, {x.data(), {kN, kN}}, {mask.data(), {kN, kN / 8}}, {x.data(), {kN, kN}});
  });
}

void packing(const Options& o, const Parallel& par, double limit) {
  std::mt19937 random(0);
  std::lognormal_distribution<double> draw(6, 1);
  std::vector<int64_t> lengths(1000000), row(lengths.size()), start(lengths.size());
  for (auto& l : lengths) l = std::clamp<int64_t>(static_cast<int64_t>(draw(random)), 1, 2048);
  const auto n = static_cast<int64_t>(lengths.size());
  const std::vector<int64_t> capacity{2048};
  for (const char* algorithm : {"first_fit_decreasing", "best_fit_decreasing"})
    report(o, std::string("fit_rows 1M lengths ") + algorithm, 24.0 * n, limit, [&] {
      fit_rows(par, {lengths.data(), {n, 1}}, {capacity.data(), {1}}, {row.data(), {n}},
               {start.data(), {n, 1}}, {algorithm, 0, 1});
    });
}

}  // namespace

int main(int argc, char** argv) {
  const Options options{argc > 1 ? argv[1] : "", argc > 2 ? std::atoi(argv[2]) : 15};
  const Parallel par(ThreadPool::instance());
  std::printf("%s, %d threads\n", isa_name(active_isa()),
              static_cast<int>(ThreadPool::instance().threads()));
  auto x = normal<float>(kN * kN);
  const double limit = report(options, "in-place scale", 8.0 * kN * kN, 0, [&] {
    par(kN, 8, [&](int64_t begin, int64_t end) {
      on_isa<Scale>(x.data() + begin * kN, (end - begin) * kN);
    });
  });
  quantize_rows_of<float>(options, par, limit, "float32");
  quantize_rows_of<bfloat16>(options, par, limit, "bfloat16");
  masks_of<float>(options, par, limit, "float32");
  masks_of<bfloat16>(options, par, limit, "bfloat16");
  packing(options, par, limit);
}
