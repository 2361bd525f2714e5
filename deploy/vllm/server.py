"""vLLM's CPU build with SmolLM2-135M-Instruct on loopback: the production engine to test against, without a GPU."""

import argparse
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deploy.embedded.process import ChildProcess, ProcessFailed, free_port, http_ok, tcp_open

NAME = "smollm2"
URL_VARIABLE = "WEIR_TEST_VLLM_URL"
SEQS_VARIABLE = "WEIR_TEST_VLLM_MAX_NUM_SEQS"
QUEUED_REQS_VARIABLE = "WEIR_TEST_VLLM_MAX_NUM_QUEUED_REQS"

MAX_NUM_SEQS = 16
MAX_NUM_QUEUED_REQS = 64  # waits and runs together; past it the server answers 503

_START_SECONDS = 600.0
_STOP_SECONDS = 30.0
_WARM_UP_SECONDS = 120.0

_FLAGS = {
    "--dtype": "bfloat16",
    "--max-model-len": "2048",
    "--block-size": "32",  # of the prefix cache. The default is 128 on a CPU and 16 on a GPU; kernels here want 32
    "--max-num-seqs": str(MAX_NUM_SEQS),
    "--max-num-queued-reqs": str(MAX_NUM_QUEUED_REQS),
    "--generation-config": "vllm",
}
_SWITCHES = (
    "--enable-prefix-caching",
    "--enable-prompt-tokens-details",
    "--enforce-eager",  # without it every start compiles the model for minutes
)


class VllmServer(ChildProcess):
    """One server, ready and warm when the constructor returns."""

    def __init__(
        self, home: Path, port: int | None = None, flags: Sequence[str] = (), timeout: float = _START_SECONDS
    ) -> None:
        """home: the environment that `make test-vllm` builds; the log and all caches stay in it.

        port: None takes a free one. flags: for the server, after its own. timeout: seconds to load the model.
        Raises ProcessFailed, and FileNotFoundError where there is no such environment.
        """
        home = home.resolve()
        python = home / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(f"{home} has no vLLM; `make test-vllm` builds it")
        port = free_port() if port is None else port
        if tcp_open(port):  # otherwise the server found there would be taken for this one
            raise ProcessFailed(f"vLLM: port {port} on loopback is in use")
        self.url = f"http://127.0.0.1:{port}"
        argv = [
            # The kernel's SIGKILL would reach only the first of vLLM's processes; SIGTERM makes it end the others.
            "setpriv",
            "--pdeathsig=TERM",
            str(python),
            "-m",
            "vllm.entrypoints.openai.api_server",  # the command `vllm` fails: this wheel is not called vllm
            "--host=127.0.0.1",
            f"--port={port}",
            f"--model={home / 'model'}",
            f"--served-model-name={NAME}",
            *(f"{flag}={value}" for flag, value in _FLAGS.items()),
            *_SWITCHES,
            *flags,
        ]
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes a share of the machine's memory
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "HF_HOME": str(home / "cache" / "huggingface"),
        }
        super().__init__("vLLM", argv, home / "server.log", environment)
        self.wait_ready(lambda: http_ok(f"{self.url}/health"), timeout)
        self._warm_up()

    def _warm_up(self) -> None:
        """The first request takes many times as long as the others; tests should not meet it."""
        body = json.dumps({"model": NAME, "prompt": "Hello", "max_tokens": 1, "logprobs": 1}).encode()
        request = urllib.request.Request(
            f"{self.url}/v1/completions", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_WARM_UP_SECONDS):
                pass
        except OSError as error:
            self.stop()
            raise ProcessFailed(f"vLLM did not answer its first request ({error}):\n{self.log_tail()}") from error

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """End the child and what it started: SIGTERM, and SIGKILL when `timeout` seconds have passed."""
        super().stop(timeout)
        # SIGTERM spares Python's resource tracker, which has shared memory to unlink.
        rest = signal.SIGKILL if self.returncode == -signal.SIGKILL else signal.SIGTERM
        with suppress(ProcessLookupError):
            os.killpg(self.pid, rest)


def default_home() -> Path:
    """`.venv-vllm` in the checkout."""
    return Path(__file__).resolve().parents[2] / ".venv-vllm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server in the foreground until Ctrl-C or SIGTERM, or for as long as a command takes.

    The command finds the server's address in WEIR_TEST_VLLM_URL. Returns its status, or 1 if the server cannot start
    or ends by itself.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.vllm.server", description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home(), help="the environment (%(default)s)")
    parser.add_argument("--port", type=int, help="port on loopback (any that is free)")
    parser.add_argument("--flag", action="append", default=[], help="for the server, as --flag=--block-size=32")
    parser.add_argument("command", nargs="*", help="run while the server is up; put -- before it")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with VllmServer(options.home, options.port, options.flag) as server:
            print(f"vLLM at {server.url}, log in {server.log}", file=sys.stderr, flush=True)
            if options.command:
                return _run(options.command, server)
            status = server.wait()
            raise ProcessFailed(f"vLLM ended with status {status}:\n{server.log_tail()}")
    except KeyboardInterrupt:
        return 130
    except (ProcessFailed, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(command: Sequence[str], server: VllmServer) -> int:
    environment = {
        URL_VARIABLE: server.url,
        SEQS_VARIABLE: str(MAX_NUM_SEQS),
        QUEUED_REQS_VARIABLE: str(MAX_NUM_QUEUED_REQS),
    }
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
