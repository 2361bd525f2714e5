"""Ports that servers are told to take."""

import socket
import subprocess
import sys
from itertools import pairwise

from deploy.embedded.process import free_port


def test_a_port_is_given_once() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == len(ports)


def test_a_port_that_is_taken_is_passed_over() -> None:
    free = next(one for one, after in pairwise(free_port() for _ in range(1000)) if after == one + 1)
    with socket.create_server(("127.0.0.1", free + 2)):
        assert free_port() != free + 2


def test_processes_side_by_side_get_other_ports() -> None:
    code = "from deploy.embedded.process import free_port; print(*(free_port() for _ in range(40)))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ports = [port for process in started for port in process.communicate()[0].split()]
    assert len(ports) == len(set(ports)) == 160
