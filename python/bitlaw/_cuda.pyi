from collections.abc import Callable
from typing import Any

# name -> (capsule of the XLA handler, None or: shapes of the inputs, attributes -> bytes of
# workspace per item)
ops: dict[str, tuple[Any, Callable[[list[list[int]], dict], int] | None]]
# (major, minor) of the XLA FFI headers this was built with
xla_ffi_api: tuple[int, int]
