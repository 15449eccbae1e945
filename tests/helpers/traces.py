"""What strace says of a program's sockets."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"sa_family=(AF_INET6?),.*?(?:inet_addr\(\"([^\"]*)\"\)|inet_pton\(AF_INET6, \"([^\"]*)\")")


def strangers(trace: str) -> list[str]:
    """Return the lines of strace that name another machine's address."""
    found = []
    for line in trace.splitlines():
        match = _ADDRESS.search(line)
        if match is not None and not (match[2] or match[3]).removeprefix("::ffff:").startswith(("127.", "::1")):
            found.append(line)
    return found
