// THE table of number formats. Python reads it through bind; kernels get grids as operands.
#pragma once
#include <array>
#include <cstdint>

namespace bitlaw {

// One format, or a preset: an element format with other defaults.
struct Format {
  const char* name;
  const char* kind;   // the map of an element: uniform, affine, float, nf4
  int64_t bits;       // of a code
  double numbers[3];  // uniform: qmin, qmax, offset; float: largest, smallest normal, epsilon
  const char* granularity;
  int64_t block;
  const char *rule, *scaling, *estimator;  // unless the spec says otherwise
  double gauss_clip;  // the largest level, in units of the RMS, of least squared error on N(0, 1)
};

// The clips are re-derived by tests/formats/test_format.py. QuEST's (arXiv:2502.05003, code) are
// its published ones; at 8 bits 0.15 % above the smallest error.
inline constexpr Format kFormats[] = {
    {"int2", "uniform", 2, {-1, 1, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 1.22400636},
    {"int3", "uniform", 3, {-3, 3, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 1.95230911},
    {"int4", "uniform", 4, {-7, 7, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 2.47387921},
    {"int5", "uniform", 5, {-15, 15, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 2.89872787},
    {"int6", "uniform", 6, {-31, 31, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 3.27011517},
    {"int7", "uniform", 7, {-63, 63, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 3.60746069},
    {"int8",
     "uniform",
     8,
     {-127, 127, 0},
     "tensor",
     0,
     "absmax",
     "f32",
     "clip_rounded",
     3.92050093},
    {"uint2", "affine", 2, {0, 3, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint3", "affine", 3, {0, 7, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint4", "affine", 4, {0, 15, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint5", "affine", 5, {0, 31, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint6", "affine", 6, {0, 63, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint7", "affine", 7, {0, 127, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"uint8", "affine", 8, {0, 255, 0}, "tensor", 0, "absmax", "f32", "clip_rounded", 0},
    {"binary", "uniform", 1, {-1, 0, 0.5}, "tensor", 0, "gauss_mse", "f32", "identity", 0.79788456},
    {"ternary", "uniform", 2, {-1, 1, 0}, "tensor", 0, "gauss_mse", "f32", "identity", 1.22400636},
    {"quest1", "uniform", 1, {-1, 0, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 0.79788456},
    {"quest2", "uniform", 2, {-2, 1, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 1.49353462},
    {"quest3", "uniform", 3, {-4, 3, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 2.05106835},
    {"quest4", "uniform", 4, {-8, 7, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 2.51393058},
    {"quest5", "uniform", 5, {-16, 15, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 2.91609388},
    {"quest6", "uniform", 6, {-32, 31, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 3.27659728},
    {"quest7", "uniform", 7, {-64, 63, 0.5}, "tensor", 0, "gauss_mse", "f32", "trust", 3.60104972},
    {"quest8",
     "uniform",
     8,
     {-128, 127, 0.5},
     "tensor",
     0,
     "gauss_mse",
     "f32",
     "trust",
     3.88493868},
    {"e4m3", "float", 8, {448, 0x1p-6, 0x1p-3}, "tensor", 0, "absmax", "f32", "identity", 0},
    {"e5m2", "float", 8, {57344, 0x1p-14, 0x1p-2}, "tensor", 0, "absmax", "f32", "identity", 0},
    {"e3m2", "float", 6, {28, 0x1p-2, 0x1p-2}, "tensor", 0, "absmax", "f32", "identity", 0},
    {"e2m3", "float", 6, {7.5, 1, 0x1p-3}, "tensor", 0, "absmax", "f32", "identity", 0},
    {"e2m1", "float", 4, {6, 1, 0x1p-1}, "tensor", 0, "absmax", "f32", "identity", 0},
    {"nf4", "nf4", 4, {1, 0, 0}, "block", 64, "absmax", "f32", "identity", 0},
    // Presets. MX: OCP Microscaling Formats 1.0; NVFP4: arXiv:2509.25149; FP8: arXiv:2209.05433.
    {"mxfp8",
     "float",
     8,
     {448, 0x1p-6, 0x1p-3},
     "block",
     32,
     "absmax",
     "e8m0_floor",
     "identity",
     0},
    {"mxfp6", "float", 6, {28, 0x1p-2, 0x1p-2}, "block", 32, "absmax", "e8m0_floor", "identity", 0},
    {"mxfp4", "float", 4, {6, 1, 0x1p-1}, "block", 32, "absmax", "e8m0_floor", "identity", 0},
    {"mxint8",
     "uniform",
     8,
     {-127, 127, 0},
     "block",
     32,
     "absmax",
     "e8m0_floor",
     "clip_rounded",
     0},
    {"nvfp4", "float", 4, {6, 1, 0x1p-1}, "block", 16, "absmax", "e4m3", "identity", 0},
    {"fp8", "float", 8, {448, 0x1p-6, 0x1p-3}, "tensor", 0, "absmax", "f32", "identity", 0},
};

// The levels of NF4: quantiles of N(0, 1) with an exact zero (QLoRA, arXiv:2305.14314, appendix E).
inline constexpr std::array<float, 16> kNf4 = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

}  // namespace bitlaw
