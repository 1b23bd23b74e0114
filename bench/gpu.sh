#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under 9 minutes:
#
#   bench/gpu.sh                     all steps, into out/gpu (or $OUT)
#   bench/gpu.sh tests bench         some of them; `build` must have run once
#   PYTHON=/opt/env/bin/python WHEELS=wheels bench/gpu.sh      no package index needed
#   DEVICE=cpu SLOW=5 bench/gpu.sh   where there is no GPU: that the commands run (SLOW x limits)
#
# PYTHON has jax with its CUDA plugin, and what `pip install '.[test]'` and the build need; wheels
# of what it lacks may lie in WHEELS. The package is built for ARCH (sm_90) into $WORK (build/gpu).
# A step that fails or reaches its limit ends nothing but itself; the summary says which did. Only
# without a GPU that JAX can use is the rest left out: its tests would all be skipped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
OUT=$(realpath -m "${OUT:-out/gpu}")
WORK=$(realpath -m "${WORK:-build/gpu}")
ARCH=${ARCH:-90-real}
site=$WORK/site-packages
mkdir -p "$OUT" "$WORK"
PATH=$PATH:/usr/local/cuda/bin
export PYTHONPATH=$site PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}  # make, unlike ninja, needs it
export CMAKE_BUILD_PARALLEL_LEVEL
wanted=" ${*:-build machine tests memcheck racecheck initcheck resources bench throughput preset} "
: >"$OUT/summary.txt"
failed=0

# step NAME LIMIT COMMAND...: runs it for at most LIMIT seconds, with its output in OUT/NAME.log.
step() {
  local name=$1 limit=$(($2 * ${SLOW:-1})) began=$SECONDS status result
  shift 2
  [[ $wanted == *" $name "* ]] || return 0
  echo "== $name: at most $limit s"
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  case $status in
    0) result=ok ;;
    124 | 137) result="stopped at its limit" ;;
    *) result="failed ($status)" ;;
  esac
  printf '%-10s %-22s %4d s   %s\n' "$name" "$result" $((SECONDS - began)) "$name.log" |
    tee -a "$OUT/summary.txt"
  [[ $status == 0 ]] || tail -n 5 "$OUT/$name.log"
  return "$status"
}

# Names all that the build and the steps after it lack, at once; fails if that is anything.
# shellcheck disable=SC2329  # called by name, below
missing() {
  local modules=(pip scikit_build_core pybind11 jax jaxlib numpy scipy matplotlib threadpoolctl
    optax orbax pooch rich safetensors tyro pytest) tools=("c++" cmake) lacking=() tool
  [[ $DEVICE == cpu ]] || modules+=("jax_cuda13_plugin|jax_cuda12_plugin")
  [[ $DEVICE == cpu ]] || tools+=(nvcc nvidia-smi)
  read -ra lacking < <("$PYTHON" -c '
import sys
from importlib.util import find_spec
print(*(m for m in sys.argv[1:] if not any(map(find_spec, m.split("|")))))' "${modules[@]}") ||
    lacking+=("$PYTHON")
  for tool in "${tools[@]}"; do command -v "$tool" >/dev/null || lacking+=("$tool"); done
  ((${#lacking[@]} == 0)) || { echo "missing: ${lacking[*]}" && return 1; }
}

# shellcheck disable=SC2329
build() {
  local isolation=(--no-build-isolation --no-deps) cuda=ON
  [[ $DEVICE == cuda ]] || cuda=AUTO
  rm -rf "$site"
  if compgen -G "${WHEELS:-none}/*.whl" >/dev/null; then
    "$PYTHON" -m pip install -q --no-index --no-deps --target "$site" "$WHEELS"/*.whl || return
  fi
  missing || return
  "$PYTHON" -m pip install "${isolation[@]}" --target "$site" . -C build-dir="$WORK/cmake" \
    -C cmake.define.BITLAW_CUDA="$cuda" -C cmake.define.CMAKE_CUDA_ARCHITECTURES="$ARCH" || return
  "$PYTHON" -c '
import os, bitlaw, optax, rich, scipy, tyro
print(bitlaw.__file__)
if not bitlaw.__file__.startswith(os.environ["site"]):
    raise SystemExit("PYTHON must not have a bitlaw of its own, which hides the one built here")' ||
    return
  [[ $DEVICE == cpu ]] || "$PYTHON" -c 'from bitlaw import _cuda; print(*_cuda.ops)'
}

# shellcheck disable=SC2329
machine() {
  [[ $DEVICE == cpu ]] || nvidia-smi || return
  "$PYTHON" -c "import jax; d = jax.devices('$DEVICE')[0]; print(jax.__version__, d.device_kind)"
}

# Fails where a log of pytest's tells of no test that passed: without a GPU all of them are skipped.
# shellcheck disable=SC2329
some_passed() {
  [[ $DEVICE == cpu ]] || grep -q '[0-9] passed' "$1" || { echo "no test ran: $1" && return 1; }
}

# Compiling 1300 small programs takes longest, so four processes share the tests.
# shellcheck disable=SC2329
tests() {
  local status=0 n=0 pids=() pid part parts=(
    "equals_its_definition and quantize"
    "equals_its_definition and not quantize and (statistic or hadamard)"
    "equals_its_definition and not quantize and not statistic and not hadamard"
    "not equals_its_definition"
  )
  for part in "${parts[@]}"; do
    n=$((n + 1))
    "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda tests/ops/test_op.py -k "$part" \
      >"$OUT/tests-$n.log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  for n in 1 2 3 4; do
    some_passed "$OUT/tests-$n.log" || status=1
    tail -n 3 "$OUT/tests-$n.log"
  done
  return $status
}

# Some examples of every op under compute-sanitizer: every buffer an allocation of its own, and no
# command buffers. Of all kernels ours alone, but for initcheck, which must see who wrote what. JAX
# asks for much that a driver need not have, so errors of API calls are left to our own checks.
# shellcheck disable=SC2329
sanitized() {
  local options=(--tool "$1" --error-exitcode 9 --report-api-errors no)
  [[ $1 == initcheck ]] || options+=(--kernel-regex kns=bitlaw)
  export XLA_PYTHON_CLIENT_ALLOCATOR=platform XLA_FLAGS=--xla_gpu_enable_command_buffer=
  compute-sanitizer "${options[@]}" "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda \
    tests/ops/test_op.py -k vmap_equals_a_loop && some_passed "$OUT/$1.log"
}

# shellcheck disable=SC2329
resources() {
  local module
  set -o pipefail
  module=$("$PYTHON" -c 'from bitlaw import _cuda; print(_cuda.__file__)') || return
  cuobjdump --dump-resource-usage "$module" | c++filt || return
  echo "kernels that spill (their local memory is not 0):"
  cuobjdump --dump-resource-usage "$module" | grep -c 'LOCAL:[1-9]' || true
}

export -f missing build machine some_passed tests sanitized resources
export PYTHON DEVICE OUT WORK ARCH site
names=("quantize int4/row 4096" "fake_quantize int4/block32 4096" "int4/row clip"
  "nvfp4/tensor 4096" top_k_mask nm_mask "prune 4096")
bench=("$PYTHON" -m bench.ops --device "$DEVICE")
throughput=("$PYTHON" -m bench.throughput --device "$DEVICE" --schemes dense)
if [[ $DEVICE == cuda ]]; then
  bench+=(--save "${names[@]}")
  throughput+=(--save --widths 128 640 --members 1 4)
else
  bench+=(--rounds 1 --side 128 "int4/row 128" prune)
  throughput+=(--widths 128 --members 2 --batch 1 --chunks 1)
fi

step build 150 bash -c build || failed=1
step machine 30 bash -c machine || {
  echo "nothing more can run without a device that JAX finds ($DEVICE)"
  exit 1
}
step tests 60 bash -c tests || failed=1
# Side by side: they wait for compilers and the instrumented kernels are small.
for tool in memcheck racecheck initcheck; do
  step $tool 80 bash -c "sanitized $tool" &
  tools+=($!)
done
for tool in "${tools[@]}"; do wait "$tool" || failed=1; done
step resources 10 bash -c resources || failed=1
step bench 95 "${bench[@]}" || failed=1
step throughput 55 "${throughput[@]}" || failed=1
step preset 58 "$PYTHON" -m bitlaw.cli reproduce --preset gpu-smoke --device "$DEVICE" \
  --out "$OUT/gpu-smoke" || failed=1
for rows in bench/results/cuda.jsonl bench/results/throughput.jsonl; do
  [[ ! -f $rows ]] || cp "$rows" "$OUT"
done

echo
cat "$OUT/summary.txt"
exit $failed
