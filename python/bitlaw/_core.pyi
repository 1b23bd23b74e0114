from collections.abc import Callable
from typing import Any

# name -> (capsule of the XLA handler, None for host ops; f(inputs, outputs, attributes))
ops: dict[str, tuple[Any, Callable[[list, list, dict], None]]]
# (major, minor) of the XLA FFI headers this was built with
xla_ffi_api: tuple[int, int]

# The rows of cpp/core/formats.hpp.
def formats() -> list[dict[str, Any]]: ...
def isa() -> str: ...
def threads() -> int: ...

# u8[bytes] in pages that have been used, where there are some; they are used again later.
def memory(size: int) -> Any: ...
