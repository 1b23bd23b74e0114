from typing import Any

# name -> capsule of the XLA handler
ops: dict[str, Any]
# (major, minor) of the XLA FFI headers this was built with
xla_ffi_api: tuple[int, int]
