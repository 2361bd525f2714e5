"""A child process that is known to be ready, and that never outlives its parent."""

import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 15
# Below the ports that the kernel gives to clients and to servers that take any: a client that keeps connecting to a
# server that is away would in the end be given the server's own port, and be connected with itself.
_PORTS = range(16_384, 32_768)
_PORTS_APART = 10_127  # the golden section of them, so that multiples of it come near each other late
_next_port = itertools.count(os.getpid() * _PORTS_APART)


class ProcessFailed(RuntimeError):
    """A child process ended, or was not ready in time; the message ends with the tail of its log."""


class ChildProcess:
    """One server as a child process, logging to a file.

    The child is started in a session of its own, so that Ctrl-C in a terminal reaches only the parent, which then ends
    its children in order. If the parent is killed, the kernel ends the child (`prctl(2)`, PR_SET_PDEATHSIG).
    Start children from a thread that lives as long as they should: the kernel watches that thread.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start `argv` at once.

        name: what messages call it. log: file that receives stdout and stderr. env: additions to the environment.
        """
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deploy.embedded.process", str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the server itself (the launcher replaces itself with it)."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def wait_ready(self, probe: Callable[[], bool], timeout: float) -> None:
        """Return once `probe` answers True.

        If the child ends first, or `timeout` seconds pass, end it and raise ProcessFailed.
        """
        deadline = time.monotonic() + timeout
        while not probe():
            if self.returncode is not None:
                raise ProcessFailed(f"{self.name} ended with status {self.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise ProcessFailed(f"{self.name} was not ready within {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the child still runs."""
        if self.returncode is None:
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child to end and return its exit status; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        """End the child: SIGTERM, and SIGKILL when `timeout` seconds have passed. Safe to call twice."""
        self.signal(signal.SIGTERM)
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()

    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago.

    It may stay unbound for long: the kernel gives it to nobody, and a process does not return it again before all
    others. Processes begin at places far from each other, so that those side by side do not get the same one.

    Raises OSError if all are taken.
    """
    for _ in _PORTS:
        port = _PORTS[next(_next_port) % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port from {_PORTS[0]} to {_PORTS[-1]}")


def tcp_open(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def http_ok(url: str) -> bool:
    """Whether a GET of `url` answers with a 2xx status."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _launch(parent: int, argv: Sequence[str]) -> None:
    """Tie this process to `parent`, then become `argv`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # otherwise the parent died before the tie was made
        os.execvp(argv[0], list(argv))


if __name__ == "__main__":
    _launch(int(sys.argv[1]), sys.argv[2:])
