"""Prints a hash per op of all outputs on all examples: run per instruction set and thread count."""

import hashlib

from bitlaw.ops import OPS, isa, threads
from ops import doors

print(isa(), threads())
for name in OPS:
    sha = hashlib.sha256()
    for arrays, attributes in doors.cases(name):
        for out in doors.through_numpy(name, arrays, attributes):
            sha.update(doors.as_integers(out).tobytes())
    print(name, sha.hexdigest())
