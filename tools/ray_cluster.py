"""A Ray cluster of two nodes on this machine, reachable from this machine alone, of which one is killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from typing import Any

from ..story.campaign.ray_connection import PRIVATE, check_loopback

_OBJECTS = 2**27


class TwoNodes:
    """Two nodes of one core each. address: for `--on`."""

    def __init__(self, cluster: Any, second: Any, port: int) -> None:
        self._cluster, self._second = cluster, second
        self.address = f"ray://127.0.0.1:{port}"

    def kill_one(self) -> int:
        """Kill all that the second node is with SIGKILL, its worker too; return how many processes that were."""
        import psutil

        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        doomed = [raylet, *raylet.children(recursive=True)]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(doomed)


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start them for the time of the block. The environment is changed for that of this process, too."""
    os.environ.update(PRIVATE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray
    from ray.cluster_utils import Cluster

    os.makedirs("/tmp/ray", exist_ok=True)  # a cluster's address is written there, wherever the rest goes
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = {"num_cpus": 1, "object_store_memory": _OBJECTS, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False, "ray_client_server_port": port},
    )
    try:
        second = cluster.add_node(**node)
        check_loopback()
        yield TwoNodes(cluster, second, port)
    finally:
        ray.shutdown()
        cluster.shutdown()
