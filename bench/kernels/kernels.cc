// Times the core's ops without Python, for a profiler:
//
//     cmake -S . -B build/kernels -DBITLAW_KERNEL_BENCH=ON && cmake --build build/kernels
//     build/kernels/bitlaw_kernels [part of a name] [rounds]
//     perf record build/kernels/bitlaw_kernels "int4/row" 200
//
// BITLAW_ISA and BITLAW_THREADS apply. Whether the answers are right is tested from Python.
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "core/codes.hpp"
#include "core/mask.hpp"
#include "core/pack.hpp"
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

template <class T>
struct Scale {
  BITLAW_LEAF static void run(T* x, int64_t n) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) x[i] = Narrow<T>::from(to_float(x[i]) * 0.99f);
  }
};

// Milliseconds of x * c in place.
template <class T>
double scaled(const Options& o, const Parallel& par, const char* type) {
  auto x = normal<T>(kN * kN);
  return report(o, std::string("in-place scale ") + type, 2.0 * sizeof(T) * kN * kN, 0, [&] {
    par(kN, 8, [&](int64_t begin, int64_t end) {
      on_isa<Scale<T>>(x.data() + begin * kN, (end - begin) * kN);
    });
  });
}

// One way to quantize rows: what the attributes say, and the numbers of the grid.
struct How {
  const char *name, *kind, *statistic, *scaling, *rounding, *estimator;
  int64_t block, hadamard;
  std::array<float, 5> grid;
};
constexpr std::array<float, 5> kInt4 = {-7, 7, 0, 7, 1}, kUint4 = {0, 15, 0, 15, 1};
constexpr std::array<float, 5> kE2m1 = {6, 1, .5, 6, 1}, kLevels = {1, 0, 0, 1, 1};
constexpr How kHow[] = {
    {"int4/row", "uniform", "absmax", "f32", "nearest", "identity", kN, 0, kInt4},
    {"int4/row", "uniform", "absmax", "f32", "nearest", "clip_rounded", kN, 0, kInt4},
    {"int4/row", "uniform", "absmax", "f32", "nearest", "clip_value", kN, 0, kInt4},
    {"int4/row/rms", "uniform", "rms", "f32", "nearest", "trust", kN, 0, kInt4},
    {"int4/block32", "uniform", "absmax", "f32", "nearest", "identity", 32, 0, kInt4},
    {"int4/block32", "uniform", "absmax", "f32", "nearest", "clip_rounded", 32, 0, kInt4},
    {"int4/block32/rms", "uniform", "rms", "f32", "nearest", "trust", 32, 0, kInt4},
    {"uint4/row", "affine", "range", "f32", "nearest", "clip_rounded", kN, 0, kUint4},
    {"uint4/block32", "affine", "range", "f32", "nearest", "clip_rounded", 32, 0, kUint4},
    {"e2m1/row", "float", "absmax", "f32", "nearest", "identity", kN, 0, kE2m1},
    {"e2m1/row", "float", "absmax", "f32", "nearest", "clip_value", kN, 0, kE2m1},
    {"mxfp4", "float", "absmax", "e8m0_floor", "nearest", "identity", 32, 0, kE2m1},
    {"nvfp4", "float", "absmax", "e4m3", "nearest", "identity", 16, 0, kE2m1},
    {"nf4/row", "nf4", "absmax", "f32", "nearest", "identity", kN, 0, kLevels},
    {"nf4", "nf4", "absmax", "f32", "nearest", "identity", 64, 0, kLevels},
    {"int4/row/toward_zero", "uniform", "absmax", "f32", "toward_zero", "identity", kN, 0, kInt4},
    {"int4/row/stochastic", "uniform", "absmax", "f32", "stochastic", "identity", kN, 0, kInt4},
    {"int4/block32/stochastic", "uniform", "absmax", "f32", "stochastic", "identity", 32, 0, kInt4},
    {"mxfp4/stochastic", "float", "absmax", "e8m0_floor", "stochastic", "identity", 32, 0, kE2m1},
    {"nf4/stochastic", "nf4", "absmax", "f32", "stochastic", "identity", 64, 0, kLevels},
    {"int4/row/hadamard128", "uniform", "absmax", "f32", "nearest", "identity", kN, 128, kInt4},
    {"int4/row/mse_search", "uniform", "mse_search", "f32", "nearest", "identity", kN, 0, kInt4},
    {"int4/block32/mse_search", "uniform", "mse_search", "f32", "nearest", "identity", 32, 0,
     kInt4},
};

template <class T>
void quantize_of(const Options& o, const Parallel& par, double limit, const char* type) {
  auto x = normal<T>(kN * kN);
  std::vector<float> scale(kN * kN / 16), zero(kN * kN / 16);
  std::vector<uint32_t> noise(3 * kN);
  std::vector<uint8_t> mask(kN * kN / 8), codes(kN * kN / 2);
  // Items of one row, or one item whose columns share a scale each.
  const auto run = [&](const std::string& what, const How& how, int64_t items, int64_t block) {
    std::vector<float> grid;
    for (int64_t i = 0; i < items; ++i) grid.insert(grid.end(), how.grid.begin(), how.grid.end());
    const int64_t rows = kN / items, noisy = std::strcmp(how.rounding, "stochastic") ? 0 : 3;
    const int64_t groups = kN / block, zeros = std::strcmp(how.kind, "affine") ? 0 : groups;
    const int64_t bytes = std::strcmp(how.estimator, "identity") ? kN / 8 : 0;
    CodesAttrs a;
    a.block = block, a.kind = how.kind, a.scaling = how.scaling, a.rounding = how.rounding;
    a.estimator = how.estimator, a.hadamard = how.hadamard, a.statistic = how.statistic;
    a.bits = 4;
    QuantizeAttrs b;
    static_cast<MapAttrs&>(b) = a, b.statistic = how.statistic;
    const std::string name = what + " " + how.name + " " + how.estimator + " " + type;
    report(o, name, 2.0 * sizeof(T) * kN * kN, limit, [&] {
      const View<const T, 3> in{x.data(), {items, rows, kN}};
      const View<const float, 2> grids{grid.data(), {items, 5}};
      const View<const uint32_t, 2> key{noise.data(), {items, noisy}};
      const View<float, 2> scales{scale.data(), {items, groups}}, z{zero.data(), {items, zeros}};
      const View<uint8_t, 3> bits{mask.data(), {items, rows, bytes}};
      if (what == "quantize")
        quantize<T>(par, in, grids, key, {codes.data(), {items, rows, kN / 2}}, scales, z, bits, a);
      else
        fake_quantize<T>(par, in, grids, key, {x.data(), {items, rows, kN}}, scales, z, bits, b);
    });
  };
  for (const How& how : kHow) run("fake_quantize", how, kN, how.block);
  run("fake_quantize channel", kHow[0], 1, 1);
  run("fake_quantize channel", kHow[1], 1, 1);
  for (int i : {0, 4, 11}) run("quantize", kHow[i], kN, kHow[i].block);
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
  const double limit = scaled<float>(options, par, "float32");
  quantize_of<float>(options, par, limit, "float32");
  quantize_of<bfloat16>(options, par, scaled<bfloat16>(options, par, "bfloat16"), "bfloat16");
  masks_of<float>(options, par, limit, "float32");
  masks_of<bfloat16>(options, par, limit, "bfloat16");
  packing(options, par, limit);
}
