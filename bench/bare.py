"""What the bare contenders share: one event's prompt, request, verdict and rows, without any of the service's care.

No check of what comes in, no retries, no breaker, no memory of what was judged. Prompt, parameters of the request,
calibration and identities are the service's own, so that both sides do the same work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.insert import InsertContext

from inference.calibration import Calibration
from inference.dialects import Vllm
from inference.engine import LabelToken
from inference.operators.moderate import ModerateSettings
from sinks import clickhouse
from sinks.rows import TABLES, AnyRow, InferenceCallRow, LineageEdgeRow, SourceRow, VerdictRow
from streams import cloudevents, pipeline, records
from streams.identity import event_row_id, stage_row_id, uuid_text
from streams.settings import Settings, load

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """One event. earlier: row id and end of the text of the message before it in its thread."""

    place: tuple[str, int, int]
    broker_time: datetime
    body: Mapping[str, Any]
    row_id: int
    source: str
    time: datetime
    earlier: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said of one prompt. seconds: of the request that carried it."""

    logprobs: Sequence[float]
    input_tokens: int
    seconds: float


class Bare:
    """The work on one event, in steps."""

    def __init__(self, file: Path) -> None:
        """file: the pipeline. Settings come from the environment, as for a worker."""
        self.settings: Settings = load(("kafka", "engine", "clickhouse"))
        self.pipeline = pipeline.load(file)
        self.stage = self.pipeline.stages[0]
        assert isinstance(self.stage.judge, ModerateSettings)
        self._judge = self.stage.judge
        self._labels = list(self._judge.labels())
        self._prompt = self._judge.prompt(self._judge.words())
        self._hash = self._prompt.hash(self._labels)
        self._threads: dict[tuple[int, str], tuple[int, str]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._store: Client | None = None
        self._contexts: dict[str, InsertContext] = {}

    async def prepare(self) -> None:
        """Ask the engine for its model, the label tokens and its bias."""
        self._session = aiohttp.ClientSession(self.settings.engine_url)
        async with self._session.get("/v1/models") as response:
            self._model = (await response.json())["data"][0]["id"]
        tokens = []
        for word in self._judge.words().values():
            body = {"model": self._model, "prompt": f" {word}", "add_special_tokens": False}
            async with self._session.post("/tokenize", json=body) as response:
                (token,) = (await response.json())["tokens"]
            tokens.append(LabelToken(f" {word}", token))
        self._keys = [f"token_id:{token.id}" for token in tokens]
        self._parameters = {"model": self._model, **Vllm().scoring(tokens)}
        calibration = self._judge.calibration
        bias = await self.ask([self._prompt.render(text).text for text in calibration.content_free])
        prior = [calibration.prior.get(label, 1.0) for label in self._labels]
        self._calibrated = Calibration([answer.logprobs for answer in bias], prior)

    def read(self, place: tuple[str, int, int], timestamp: float, value: bytes, headers: Headers) -> Message:
        """The event in a Kafka message. place: topic, partition and offset. timestamp: Kafka's, Unix seconds."""
        body = orjson.loads(value)
        source = dict(headers)["ce_source"].decode()
        time = datetime.fromisoformat(body["time"])
        row = event_row_id(int(time.timestamp() * 1000), source, body["id"])
        key = place[1], body.get("thread", "")
        earlier = self._threads.get(key) if key[1] else None
        self._threads[key] = row, body["text"][-self.stage.context.characters :]
        return Message(place, datetime.fromtimestamp(timestamp, UTC), body, row, source, time, earlier)

    def prompt(self, message: Message) -> str:
        """What the model reads."""
        return self._prompt.render(message.body["text"], [message.earlier[1]] if message.earlier else []).text

    async def ask(self, prompts: Sequence[str]) -> list[Answer]:
        """One request for several prompts."""
        assert self._session is not None
        body = orjson.dumps({**self._parameters, "prompt": prompts})
        started = datetime.now(UTC)
        async with self._session.post(
            "/v1/completions", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            response.raise_for_status()
            choices = orjson.loads(await response.read())["choices"]
        seconds = (datetime.now(UTC) - started).total_seconds()
        found = []
        for choice in choices:
            top = choice["logprobs"]["top_logprobs"][0]
            values = [top[key] for key in self._keys]
            total = math.log(sum(map(math.exp, values)))
            found.append(Answer([value - total for value in values], len(choice["prompt_token_ids"] or ()), seconds))
        return found

    def verdict(self, message: Message, answer: Answer) -> tuple[bytes, Headers, list[AnyRow]]:
        """The verdict for Kafka with its headers, and the rows for ClickHouse."""
        now = datetime.now(UTC)
        body = message.body
        topic, partition, offset = message.place
        scores = self._calibrated(answer.logprobs)
        risk = 1 - scores[0]
        limits = self._judge.thresholds
        decision = "block" if risk >= limits.block else "review" if risk >= limits.review else "allow"
        label = self._labels[scores.index(max(scores))]
        confidence = scores[0] if decision == "allow" else risk
        row = stage_row_id(message.row_id >> 80, self.pipeline.name, self.stage.name, 0, [message.row_id])
        name = uuid_text(row)
        latency = round((now - message.time).total_seconds() * 1000)
        thread, author = body.get("thread", ""), body.get("author", "")
        lang, tenant = body.get("lang", ""), body.get("tenant", "")
        context = [message.earlier[0]] if message.earlier else []
        value = {
            "row_id": name,
            "parents": [uuid_text(parent) for parent in (message.row_id, *context)],
            "source": {
                "row_id": uuid_text(message.row_id),
                "source": message.source,
                "id": body["id"],
                "topic": topic,
                "partition": partition,
                "offset": offset,
            },
            "pipeline": self.pipeline.name,
            "pipeline_version": self.pipeline.version,
            "stage": self.stage.name,
            "operator": "moderate",
            "decision": decision,
            "label": label,
            "scores": dict(zip(self._labels, scores, strict=True)),
            "confidence": confidence,
            "confidence_source": "logprobs",
            "output": {},
            "model": self._model,
            "prompt_hash": self._hash,
            "parts": 1,
            "reused_from": None,
            "usage": {"input_tokens": answer.input_tokens, "cached_tokens": 0, "output_tokens": 1},
            "cost_usd": 0.0,
            "engine_seconds": answer.seconds,
            "latency_ms": latency,
            "event_time": cloudevents.rfc3339(message.time),
            "judged_at": cloudevents.rfc3339(now),
            "thread": thread,
            "author": author,
            "lang": lang,
            "tenant": tenant,
        }
        headers = cloudevents.headers(
            id=name,
            source=f"/weir/{self.pipeline.name}/{self.stage.name}",
            type=records.VERDICT_TYPE,
            time=now,
            subject=body["id"],
        )
        rows: list[AnyRow] = [
            SourceRow(
                row_id=message.row_id,
                event_time=message.time,
                broker_time=message.broker_time,
                source=message.source,
                event_id=body["id"],
                topic=topic,
                partition=partition,
                offset=offset,
                tenant=tenant,
                thread=thread,
                author=author,
                lang=lang,
                text=body["text"],
                written_at=now,
            ),
            LineageEdgeRow(row, message.row_id, "input", now),
            *(LineageEdgeRow(row, parent, "context", now) for parent in context),
            InferenceCallRow(
                row_id=row,
                call=0,
                called_at=now,
                model=self._model,
                prompt_hash=self._hash,
                input_tokens=answer.input_tokens,
                cached_tokens=0,
                output_tokens=1,
                seconds=answer.seconds,
                cost_usd=0.0,
                engine_seconds=answer.seconds,
            ),
            VerdictRow(
                row_id=row,
                source_row_id=message.row_id,
                pipeline=self.pipeline.name,
                pipeline_version=self.pipeline.version,
                stage=self.stage.name,
                operator="moderate",
                tenant=tenant,
                lang=lang,
                event_time=message.time,
                broker_time=message.broker_time,
                judged_at=now,
                topic=topic,
                partition=partition,
                offset=offset,
                decision=decision,
                label=label,
                scores=scores,
                confidence=confidence,
                model=self._model,
                prompt_hash=self._hash,
                parts=1,
                input_tokens=answer.input_tokens,
                cached_tokens=0,
                output_tokens=1,
                cost_usd=0.0,
                latency_ms=latency,
                engine_seconds=answer.seconds,
            ),
        ]
        return orjson.dumps(value), cast(Headers, headers), rows

    def insert(self, rows: Sequence[AnyRow]) -> None:
        """One insert a table; for one thread at a time."""
        if self._store is None:
            self._store = clickhouse.connect(self.settings.store)
        for kind, table in TABLES.items():
            if some := [row for row in rows if type(row) is kind]:
                if table not in self._contexts:
                    self._contexts[table] = self._store.create_insert_context(
                        table, column_names=list(kind._fields), column_oriented=True
                    )
                self._store.insert(context=self._contexts[table], data=list(zip(*some, strict=True)))
