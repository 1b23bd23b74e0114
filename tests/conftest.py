"""Four devices on the CPU, so that sharding is tested everywhere."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
