"""Every op through every kernel door equals its definition run by numpy, bit for bit."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw import _core
from bitlaw.ops import OPS
from ops import doors

ISAS = ["base", "avx2", "avx512", "avx512bf16"]
IN_JAX = [name for name, it in OPS.items() if not it.host]


def test_python_and_cpp_declare_the_same_ops():
    assert set(_core.ops) == set(OPS)


def test_handlers_are_built_with_headers_every_supported_jaxlib_takes():
    assert _core.xla_ffi_api == (0, 1)


def assert_equals_definition(name, door, arrays, attributes):
    got, want = door(name, arrays, attributes), doors.definition(name, arrays, attributes)
    shapes = [len(a) if isinstance(a, list) else a.shape for a in arrays]
    what = f"{name} {attributes} {shapes}"
    with np.errstate(all="ignore"):
        if given := OPS[name].given(*arrays, **attributes):
            # A sum in another order may end 2 ulp away; what follows is bitwise, given the sum.
            at, outs = given
            assert doors.ulps_apart(got[at], want[at]) <= 2, what
            want = outs(got[at])
    for g, w in zip(got, want, strict=True):
        doors.assert_same_bits(g, w, what)


@pytest.mark.parametrize("name, door", doors.placed(OPS, doors.KERNEL_DOORS))
def test_op_equals_its_definition(name, door):
    if OPS[name].host and door == "jit":
        pytest.skip("host only: a plan made by numpy")
    for arrays, attributes in doors.cases(name):
        if door == "cuda":  # sums too have the CPU's bits there
            got = doors.through_cuda(name, arrays, attributes)
            want = doors.through_numpy(name, arrays, attributes)
            for g, w in zip(got, want, strict=True):
                doors.assert_same_bits(g, w, f"{name} {attributes} {[a.shape for a in arrays]}")
        else:
            assert_equals_definition(name, doors.KERNEL_DOORS[door], arrays, attributes)


@pytest.mark.parametrize("name, device", doors.placed(IN_JAX, ["cpu"]))
def test_vmap_equals_a_loop(name, device):
    for arrays, attributes in doors.cases(name, seed=1)[::5]:
        stacked = [np.stack([a, np.flip(a, 0)]) for a in arrays]
        op = functools.partial(OPS[name], **attributes)
        with jax.default_device(doors.device(device)):
            got = jax.vmap(op)(*map(jnp.asarray, stacked))
        got = got if isinstance(got, tuple) else (got,)
        for i in range(2):
            want = doors.through_numpy(name, [a[i] for a in stacked], attributes)
            for g, w in zip(got, want, strict=True):
                doors.assert_same_bits(np.asarray(g)[i], w, f"{name} {attributes}")


@pytest.mark.parametrize("name", IN_JAX)
def test_vmap_broadcasts_what_is_not_mapped(name):
    arrays, attributes = next(c for c in doors.cases(name) if max(a.size for a in c[0]) > 100)
    stacked = np.stack([arrays[0], arrays[0]])
    got = jax.vmap(lambda x: OPS[name](x, *map(jnp.asarray, arrays[1:]), **attributes))(
        jnp.asarray(stacked)
    )
    got = got if isinstance(got, tuple) else (got,)
    for g, w in zip(got, doors.through_numpy(name, arrays, attributes), strict=True):
        doors.assert_same_bits(np.asarray(g)[1], w, name)


@pytest.mark.parametrize("name, device", doors.placed([n for n in IN_JAX if OPS[n].alias], ["cpu"]))
def test_in_place_gives_the_same_bits(name, device):
    for arrays, attributes in doors.cases(name)[::7]:
        want = doors.through_numpy(name, arrays, attributes)
        op = functools.partial(OPS[name], in_place=True, **attributes)
        run = jax.jit(op, donate_argnums=0)
        with jax.default_device(doors.device(device)):
            got = run(*map(jnp.array, arrays))
        got = got if isinstance(got, tuple) else (got,)
        over = [np.array(a) for a in arrays]
        numpy_outs = OPS[name].numpy(*over, in_place=True, **attributes)
        assert np.shares_memory(numpy_outs[0], over[0]) or not over[0].size
        for g, n, w in zip(got, numpy_outs, want, strict=True):
            doors.assert_same_bits(np.asarray(g), w, f"{name} {attributes}")
            doors.assert_same_bits(n, w, f"{name} {attributes}")


def digest(**environment):
    """One line per op: a hash of all its outputs in a fresh process with this environment."""
    command = [sys.executable, "-m", "ops.digest"]
    env = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))} | environment
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", ["1", "3"])
def test_isa_and_threads_change_no_bit(isa, threads):
    if ISAS.index(isa) > ISAS.index(_core.isa()):
        pytest.skip(f"this machine has no {isa}")
    lines = digest(BITLAW_ISA=isa, BITLAW_THREADS=threads).splitlines()
    assert lines[0] == f"{isa} {threads}"
    assert lines[1:] == digest().splitlines()[1:]


def test_unknown_isa_is_refused_by_name():
    with pytest.raises(subprocess.CalledProcessError) as error:
        digest(BITLAW_ISA="avx1024")
    assert "BITLAW_ISA must be base, avx2, avx512 or avx512bf16, got avx1024" in error.value.stderr


def test_attributes_are_read_as_plain_python_values():
    x = np.ones((1, 1, 8), np.float32)
    it = OPS["group_statistic"]
    common = {"block": np.int32(8), "statistic": "absmax", "hadamard": np.int64(0)}
    a, _ = it(x, pruned=np.bool_(False), **common)
    b, _ = jax.jit(lambda x: it(x, pruned=np.True_, **common))(x)
    assert a == 1 and b == 1
    with pytest.raises(ValueError, match="group_statistic takes attributes"):
        it(x, block=8, statistic="absmax")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([np.zeros(2), np.zeros((2, 1))], r"parts must be float64\[n\], got float64\[n, 1\] at 1"),
        ([np.zeros((2, 3), ">i4")] * 2 + [np.zeros((2, 3), "<i4")], "at 2"),
        ([np.zeros(2), 3.0], "parts must be arrays, got a scalar at 1"),
    ],
)
def test_parts_of_several_kinds_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=message):
        OPS["part_lengths"](parts)


FORK = """
import os
import numpy as np
from bitlaw.ops import OPS
x = np.ones((64, 1, 4096), np.float32)
attributes = {"block": 4096, "statistic": "absmax", "pruned": False, "hadamard": 0}
run = lambda: OPS["group_statistic"](x, **attributes)[0]
run()  # starts the parent's threads
pid = os.fork()
if pid == 0:
    os._exit(0 if (run() == 1).all() else 1)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_the_numpy_pool_survives_fork():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


MANY = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:{cores}])  # before XLA sizes its pool
import jax, jax.numpy as jnp, numpy as np
import bitlaw
xs = [jnp.full((256, 1024), i + 1.0) for i in range(64)]
run = jax.jit(lambda xs: [bitlaw.fake_quantize(x, "int4/row") for x in xs])
for x, y in zip(xs, run(xs)):
    np.testing.assert_array_equal(y, bitlaw.fake_quantize(np.asarray(x), "int4/row"))
"""


@pytest.mark.parametrize("cores", [1, 2])
def test_64_independent_calls_finish_on_a_small_pool(cores):
    """Waiting on a queued helper from a pool thread would hang here for ever."""
    env = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, "-c", MANY.format(cores=cores)]
    subprocess.run(command, env=env, check=True, timeout=120)


NO_THREADS = """
import resource
import numpy as np
from bitlaw.ops import OPS
x = np.ones((64, 1, 4096), np.float32)
attributes = {"block": 4096, "statistic": "absmax", "pruned": False, "hadamard": 0}
run = lambda: OPS["group_statistic"](x, **attributes)[0]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), limits[1]))  # no room for a stack
for _ in range(6):
    assert (run() == 1).all()
resource.setrlimit(resource.RLIMIT_AS, limits)
for _ in range(50):
    assert (run() == 1).all()
"""


def test_without_room_for_threads_the_caller_does_the_work():
    env = os.environ | {"BITLAW_THREADS": "8"}
    subprocess.run([sys.executable, "-c", NO_THREADS], env=env, check=True, timeout=60)


@pytest.mark.parametrize("threads", ["0", "-1", "abc", "100000"])
def test_a_bad_number_of_threads_is_refused_by_name(threads):
    with pytest.raises(subprocess.CalledProcessError) as error:
        digest(BITLAW_THREADS=threads)
    assert f"BITLAW_THREADS must be 1 to 1024, got {threads}" in error.value.stderr
