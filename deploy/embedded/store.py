"""ClickHouse without a server to install: chDB in a child process that speaks ClickHouse's HTTP protocol."""

import sys
from pathlib import Path

from deploy.embedded.process import ChildProcess, free_port, http_ok

NAME = "store"


class ChdbStore(ChildProcess):
    """A store on loopback, ready when the constructor returns.

    Any ClickHouse HTTP client can use `url`; `store_server` names what it does not do. Its tables live in `data`
    and are found again by the next store over the same folder. One folder has room for one store at a time.
    """

    def __init__(self, data: Path, port: int | None = None, timeout: float = 60.0) -> None:
        """data: folder for its tables and its log. port: None takes a free one. timeout: seconds to become ready.

        Raises ProcessFailed.
        """
        port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{port}"
        tables = str(data.absolute() / "tables")
        argv = [sys.executable, "-m", "deploy.embedded.store_server", "--port", str(port), "--path", tables]
        super().__init__(NAME, argv, data / "store.log", {"TZ": "UTC"})  # as in ClickHouse's container image
        self.wait_ready(lambda: http_ok(f"{self.url}/ping"), timeout)
