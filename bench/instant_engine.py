"""An engine that answers at once: vLLM's completions API without a model, so that everything around the model shows.

    python -m bench.instant_engine --port P [--delay SECONDS] [--answers FILE.jsonl]

The shape of its answers is that of vLLM 0.32, recorded in tests/inference/recorded. Its scores depend on a hash of the
prompt, or are on record: a line of FILE has the `text` of a message or claim and the `word` that is the answer to it. A
prompt counts as one token for four bytes, and a label as one token. `/metrics` has vLLM's names; there, as in vLLM,
each prompt of a request is a request.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
from aiohttp import web

from deploy.embedded.process import ChildProcess, free_port, http_ok

MODEL = "instant"
CONTEXT_TOKENS = 4096

_VARIANTS = 256
_BYTES_A_TOKEN = 4
_ID = b"10000,"  # as long as a token id of a vocabulary of 100,000 is
_IDS = _ID * CONTEXT_TOKENS
_LARGEST_BODY = 64 * 1024 * 1024
_LABEL_IDS = 1_000_000  # below are the ids of ordinary text
_SURE, _UNLIKELY = -0.02, -5.0


class InstantEngine(ChildProcess):
    """The engine as a child process, ready when the constructor returns."""

    def __init__(self, data: Path, delay: float = 0.0, answers: Path | None = None) -> None:
        """data: folder for its log. delay: seconds that every request for completions takes. answers: those on record.

        Raises ProcessFailed.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "bench.instant_engine", "--port", str(port), "--delay", str(delay)]
        argv += ["--answers", str(answers)] if answers else []
        super().__init__("instant engine", argv, data / "engine.log")
        self.wait_ready(lambda: http_ok(f"{self.url}/health"), 30)


class Answers:
    """The bytes of each answer, made of parts that are made once."""

    def __init__(self, recorded: Mapping[str, str], labels: Mapping[str, int], model: str = MODEL) -> None:
        """recorded: text to the word that answers it. labels: words to their token ids, as they become known."""
        self._variants: dict[tuple[int, ...], list[bytes]] = {}
        self.model = model
        self._recorded = recorded
        self._labels = labels
        self.on_record = self.recorded
        self.prompt_tokens = 0
        self.generated_tokens = 0

    def of(self, body: dict[str, Any]) -> bytes:
        """The answer to a request for completions."""
        prompts = body["prompt"]
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        variants = self._of_labels(tuple(body.get("logprob_token_ids") or ()))
        choices, tokens = [], 0
        for index, prompt in enumerate(prompts):
            data = prompt.encode() if isinstance(prompt, str) else repr(prompt[-16:]).encode()
            count = len(data) // _BYTES_A_TOKEN + 1 if isinstance(prompt, str) else len(prompt)
            tokens += count
            ids = (
                (b'"token_ids":[216],"prompt_token_ids":[', _IDS[: count * len(_ID) - 1], b"]")
                if body.get("return_token_ids")
                else (b'"token_ids":null,"prompt_token_ids":null',)
            )
            known = self.on_record(prompt, tuple(body.get("logprob_token_ids") or ()))
            choices.append(b"".join((b'{"index":%d,' % index, known or variants[crc32(data) % _VARIANTS], *ids, b"}")))
        self.prompt_tokens += tokens
        self.generated_tokens += len(prompts)
        return (
            b'{"id":"cmpl-0","object":"text_completion","created":0,"model":"%s","choices":[%s],"usage":{'
            b'"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0}}}'
        ) % (self.model.encode(), b",".join(choices), tokens, len(prompts), tokens + len(prompts))

    def recorded(self, prompt: Any, labels: tuple[int, ...]) -> bytes:
        """The choice that is on record for a prompt; empty for none."""
        if not self._recorded or not isinstance(prompt, str):
            return b""
        line = prompt.rpartition("\n")[0].rpartition("\n")[2]
        word = next((word for text, word in self._recorded.items() if line.endswith(text)), None)
        if word is None:
            return b""
        return choice(labels, {i: _SURE if i == self._labels.get(f" {word}") else _UNLIKELY for i in labels})

    def _of_labels(self, labels: tuple[int, ...]) -> list[bytes]:
        if labels not in self._variants:
            chance = random.Random(repr(labels))
            self._variants[labels] = [
                choice(labels, {i: -12 * chance.random() for i in labels}) for _ in range(_VARIANTS)
            ]
        return self._variants[labels]


def choice(labels: tuple[int, ...], logprobs: Mapping[int, float]) -> bytes:
    """A choice without its index and its token ids."""
    top = {"token_id:216": -3.151062250137329} | {f"token_id:{i}": logprobs[i] for i in labels}
    choice = {
        "text": " ",
        "logprobs": {
            "text_offset": [0],
            "token_logprobs": [top["token_id:216"]],
            "tokens": ["token_id:216"],
            "top_logprobs": [top],
        },
        "finish_reason": "length",
        "stop_reason": None,
        "prompt_logprobs": None,
    }
    return orjson.dumps(choice)[1:-1] + b","


class Server:
    """The HTTP side."""

    model = MODEL

    def __init__(self, delay: float, recorded: Mapping[str, str]) -> None:
        self._delay = delay
        self._labels: dict[str, int] = {}
        self._answers = Answers(recorded, self._labels, self.model)
        self._running = 0
        self._prompts = 0
        self._requests = 0
        self._received = 0  # bytes
        self._sent = 0

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._completions)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": CONTEXT_TOKENS}
        return _json(orjson.dumps({"object": "list", "data": [model]}))

    async def _metrics(self, _: web.Request) -> web.Response:
        labels = f'{{engine="0",model_name="{self.model}"}}'
        lines = (
            f"vllm:num_requests_running{labels} {self._running}",
            f"vllm:num_requests_waiting{labels} 0",
            f"vllm:kv_cache_usage_perc{labels} 0",
            f"vllm:prompt_tokens_total{labels} {self._answers.prompt_tokens}",
            f"vllm:generation_tokens_total{labels} {self._answers.generated_tokens}",
            f'vllm:request_success_total{{finished_reason="length",{labels[1:]} {self._prompts}',
            f'http_requests_total{{handler="/v1/completions",method="POST",status="2xx"}} {self._requests}',
            f"bench_request_bytes_total {self._received}",
            f"bench_answer_bytes_total {self._sent}",
        )
        return web.Response(text="\n".join(lines) + "\n")

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = orjson.loads(await request.read())["prompt"]
        if text.startswith(" ") and text[1:].isalpha():
            tokens = [self._labels.setdefault(text, _LABEL_IDS + len(self._labels))]
        else:
            tokens = [10000] * (len(text.encode()) // _BYTES_A_TOKEN + 1)
        return _json(orjson.dumps({"count": len(tokens), "max_model_len": CONTEXT_TOKENS, "tokens": tokens}))

    async def _completions(self, request: web.Request) -> web.Response:
        content = await request.read()
        body = orjson.loads(content)
        count = len(body["prompt"]) if isinstance(body["prompt"], list) else 1
        self._running += count
        try:
            if self._delay:
                await asyncio.sleep(self._delay)
            answer = self._answers.of(body)
        finally:
            self._running -= count
        self._prompts += count
        self._requests += 1
        self._received += len(content)
        self._sent += len(answer)
        return _json(answer)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="instant_engine")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--delay", type=float, default=0.0)
    options.add_argument("--answers", type=Path)
    chosen = options.parse_args()
    lines = chosen.answers.read_bytes().splitlines() if chosen.answers else []
    on_record = {row["text"]: row["word"] for row in map(orjson.loads, lines)}
    web.run_app(
        Server(chosen.delay, on_record).application(),
        host="127.0.0.1",
        port=chosen.port,
        access_log=None,
        print=None,
        shutdown_timeout=1,
    )
