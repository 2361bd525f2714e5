"""Which HTTP requests of a worker count, what they are about, and which worker sent them.

Each worker has a name of its own as API key of the engine and as user of the store; neither server asks for one.
"""

import base64
import re

import lz4.frame
import orjson
from aiohttp import web
from proxy import Call

COMPLETION = "completion"
CALIBRATION = "calibration"
INSERT_VERDICTS = "insert verdicts_raw"
INSERT_TURNS = "insert turns_raw"
INSERT_CALLS = "insert calls_raw"

_TOKEN = re.compile(r"\be-\d{5}\b")
_INSERT = re.compile(rb"^\s*INSERT INTO\s+(?:`?\w+`?\.)?`?(\w+)`?", re.IGNORECASE)
_HEAD_BYTES = 500


def token(event: int) -> str:
    """The name of an event inside its text."""
    return f"e-{event:05d}"


def tokens(text: str) -> list[str]:
    """The names of events in a text."""
    return _TOKEN.findall(text)


def of_engine(request: web.Request, body: bytes) -> Call | None:
    """A request for completions, with the names of the events that each of its prompts is about."""
    if not request.path.endswith("/completions"):
        return None
    prompt = orjson.loads(body)["prompt"]
    prompts = [prompt] if isinstance(prompt, str) else prompt
    names = tuple(filter(None, (" ".join(tokens(_last_message(text))) for text in prompts)))
    return Call(COMPLETION if names else CALIBRATION, _bearer(request), names)


def of_store(request: web.Request, body: bytes) -> Call | None:
    """An INSERT, with its table."""
    if request.method != "POST":
        return None
    match = _INSERT.match(request.query.get("query", "").encode() + _head(request, body))
    return Call(f"insert {match[1].decode()}", _user(request)) if match else None


def _last_message(prompt: str) -> str:
    lines = [line for line in prompt.splitlines() if line.startswith("Message: ")]
    return lines[-1] if lines else ""


def _head(request: web.Request, body: bytes) -> bytes:
    """The beginning of the body, without its compression."""
    if request.headers.get("Content-Encoding") == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(body, max_length=_HEAD_BYTES))
    return body[:_HEAD_BYTES]


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _user(request: web.Request) -> str:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if kind == "Basic":
        return base64.b64decode(value).decode().partition(":")[0]
    return request.headers.get("X-ClickHouse-User", "")
