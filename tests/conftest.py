"""Four devices on the CPU, so that sharding is tested everywhere.

Tests run on the CPU also where there is a GPU; those marked `cuda` place their arrays there.
"""

import glob
import importlib.util
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
plugins = map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin"))
gpu = glob.glob("/dev/nvidia[0-9]*") and any(plugins)
os.environ.setdefault("JAX_PLATFORMS", "cpu,cuda" if gpu else "cpu")  # the first is the default
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # tests start processes
