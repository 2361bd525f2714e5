"""The tables of thousands of reviewed calls, made by ClickHouse itself: ids, edges and words as the service makes them.

A call has 122 turns, eight exchanges of fifteen turns with the two before each, three claims in each exchange, each
claim checked against the customer's document, and a summary. So a finding has 20 ancestors, and a call 331 edges.
"""

from collections.abc import Iterator
from itertools import pairwise

from clickhouse_connect.driver.client import Client

TURNS = 122
EXCHANGES = 8
OWN, BEFORE = 15, 2  # turns of an exchange, and those that are read with it
CLAIMS = 3  # of an exchange
ANCESTORS = 1 + 1 + OWN + BEFORE + 1  # claim, exchange, turns, document
FINDINGS = EXCHANGES * CLAIMS  # of a call
EDGES = TURNS + EXCHANGES * (OWN + BEFORE) + 3 * FINDINGS + 1  # of a call
PIPELINE = "call-review"

_BEGAN = 1_790_000_000_000  # Unix milliseconds
_DAYS = 30  # over which the calls are spread
_TURN_MS = 10_000
_DOCUMENT_MS = 86_400_000  # before the first call
_WORDS = (  # noqa: SIM905
    "the your our a policy covers claim rental car deductible towing miles days dollars glass repair shop accident "
    "driver coverage roadside assistance battery home we pay up to within of for and is not only after before send call"
).split()


class Rows:
    """Names of rows as SQL expressions. c, t, e, k: expressions for the numbers of call, turn, exchange and claim."""

    def __init__(self, calls: int, first: int, end: int) -> None:
        """calls: all of them; from which on and up to which these are."""
        self.calls = calls
        self.first = first
        self.end = end

    def time(self, c: str, t: str = "0") -> str:
        """When a turn was said; Unix milliseconds."""
        return f"({_BEGAN} + intDiv({c} * {_DAYS * 86_400_000}, {self.calls}) + ({t}) * {_TURN_MS})"

    def ended(self, c: str, e: str) -> str:
        """When an exchange ended."""
        return self.time(c, f"{e} * {OWN} + {OWN + BEFORE - 1}")

    def turn(self, c: str, t: str) -> str:
        return _row(self.time(c, t), "turn", c, t)

    def transcript(self, c: str) -> str:
        return _row(self.time(c, str(TURNS - 1)), "transcript", c)

    def summary(self, c: str) -> str:
        return _row(self.time(c, str(TURNS - 1)), "summary", c)

    def document(self, c: str) -> str:
        return _row(f"{_BEGAN - _DOCUMENT_MS} + {c}", "document", c)

    def exchange(self, c: str, e: str) -> str:
        return _row(self.ended(c, e), "exchange", c, e)

    def claim(self, c: str, e: str, k: str) -> str:
        return _row(self.ended(c, e), "claim", c, e, k)

    def finding(self, c: str, e: str, k: str) -> str:
        return _row(self.ended(c, e), "finding", c, e, k)


def fill(client: Client, edges: int) -> int:
    """Write calls with about so many edges, with everything that belongs to them, day by day. How many calls."""
    calls = max(1, round(edges / EDGES))
    bounds = [calls * day // _DAYS for day in range(_DAYS + 1)]
    for first, end in pairwise(bounds):
        rows = Rows(calls, first, end)
        for statement in (*_edges(rows), *_sources(rows), *_verdicts(rows), *_others(rows)):
            client.command(statement)
    return calls


def _edges(rows: Rows) -> Iterator[str]:
    def insert(child: str, parent: str, kind: str, numbers: str, ended: str) -> str:
        late = f"500 + bitAnd(sipHash64({child}), 1023)"  # until a worker had judged it
        at = f"fromUnixTimestamp64Milli({ended} + {late}, 'UTC')"
        return f"INSERT INTO lineage_edges_raw SELECT {child}, {parent}, {kind}, {at} FROM ({numbers})"

    one, exchange, claim = "input", rows.exchange("c", "e"), rows.claim("c", "e", "k")
    finding, transcript = rows.finding("c", "e", "k"), rows.transcript("c")
    of_call, of_exchange = rows.time("c", str(TURNS - 1)), rows.ended("c", "e")
    yield insert(transcript, rows.turn("c", "t"), f"'{one}'", _numbers(rows, turns=TURNS), of_call)
    yield insert(rows.summary("c"), transcript, f"'{one}'", _numbers(rows), of_call)
    read = rows.turn("c", f"e * {OWN} + t")
    kind = f"if(t < {BEFORE}, 'context', 'input')"
    yield insert(exchange, read, kind, _numbers(rows, EXCHANGES, turns=OWN + BEFORE), of_exchange)
    claims = _numbers(rows, EXCHANGES, CLAIMS)
    yield insert(claim, exchange, f"'{one}'", claims, of_exchange)
    yield insert(finding, claim, f"'{one}'", claims, of_exchange)
    yield insert(finding, rows.document("c"), "'document'", claims, of_exchange)


def _sources(rows: Rows) -> Iterator[str]:
    def insert(row: str, ms: str, source: str, topic: str, words: int, attributes: str, numbers: str) -> str:
        return f"""
        INSERT INTO source_rows_raw (row_id, event_time, broker_time, source, event_id, topic, `partition`, `offset`,
            tenant, thread, author, lang, text, written_at, attributes)
        SELECT {row} AS id, {_at(ms)}, {_at(f"{ms} + 300")}, '{source}', hex(sipHash64(id)), '{topic}', c % 8,
            intDiv(rowNumberInAllBlocks(), 8), 'acme', concat('call-', toString(c)), 'agent', 'en',
            {_text("id", words)}, {_at(f"{ms} + 600")}, {attributes}
        FROM ({numbers})
        """

    made = f"/weir/{PIPELINE}"
    turns = _numbers(rows, turns=TURNS)
    said = "concat('{\"turn\":', toString(t), '}')"
    yield insert(rows.turn("c", "t"), rows.time("c", "t"), "/phone", "calls.turns", 12, said, turns)
    whole, ended = TURNS * 12, rows.time("c", str(TURNS - 1))
    yield insert(rows.transcript("c"), ended, f"{made}/assemble", "calls.transcripts", whole, "''", _numbers(rows))
    exchanges, at = _numbers(rows, EXCHANGES), rows.ended("c", "e")
    yield insert(rows.exchange("c", "e"), at, f"{made}/exchanges", "calls.exchanges", 12 * OWN, "''", exchanges)
    claims = _numbers(rows, EXCHANGES, CLAIMS)
    said = f"concat('{{\"turn\":', toString(e * {OWN} + k), '}}')"
    yield insert(rows.claim("c", "e", "k"), at, f"{made}/claims", "calls.claims", 12, said, claims)


def _verdicts(rows: Rows) -> Iterator[str]:
    def insert(row: str, source: str, ms: str, stage: str, topic: str, numbers: str) -> str:
        return f"""
        INSERT INTO verdicts_raw (row_id, source_row_id, pipeline, pipeline_version, stage, operator, tenant, lang,
            event_time, broker_time, judged_at, topic, `partition`, `offset`, decision, label, scores, confidence,
            model, prompt_hash, parts, input_tokens, cached_tokens, output_tokens, cost_usd, latency_ms, output,
            engine_seconds, prompt_version)
        SELECT {row} AS id, {source}, '{PIPELINE}', '1', '{stage}', '{stage}', 'acme', 'en', {_at(ms)},
            {_at(f"{ms} + 300")}, {_at(f"{ms} + 1500")}, '{topic}', c % 8, intDiv(rowNumberInAllBlocks(), 8),
            if(id % 10 = 0, 'escalate', 'accept') AS decided, if(decided = 'accept', 'supported', 'contradicted'),
            [0.9, 0.1, 0], 0.9, 'model', if(id % 2 = 0, 'a1', 'b2') AS hash, 1, 400, 300, 1, 0.00001, 1500,
            concat('{{"evidence":"', {_text("id", 12)}, '"}}'), 0.01, if(hash = 'a1', 'v1', 'v2')
        FROM ({numbers})
        """

    claims, ended = _numbers(rows, EXCHANGES, CLAIMS), rows.ended("c", "e")
    finding, claim = rows.finding("c", "e", "k"), rows.claim("c", "e", "k")
    yield insert(finding, claim, ended, "check", "calls.claims", claims)
    whole = rows.time("c", str(TURNS - 1))
    yield insert(rows.summary("c"), rows.transcript("c"), whole, "summarize", "calls.transcripts", _numbers(rows))


def _others(rows: Rows) -> Iterator[str]:
    ended = rows.time("c", str(TURNS - 1))
    yield f"""
    INSERT INTO documents_raw
    SELECT 'acme', concat('policy-', toString(c)), {_at(f"{_BEGAN - _DOCUMENT_MS} + c")}, {rows.document("c")} AS id,
        false, 'en', 'calls.documents', c % 8, intDiv(c, 8), {_text("id", 200)}, now64(3)
    FROM ({_numbers(rows)})
    """
    yield f"""
    INSERT INTO calls_raw
    SELECT 'calls.turns', c % 8, 'acme', concat('call-', toString(c)), {TURNS}, {rows.transcript("c")}, {TURNS}, 0,
        'final', {_at(rows.time("c"))}, {_at(ended)}, {_at(f"{ended} + 500")}
    FROM ({_numbers(rows)})
    """
    yield f"""
    INSERT INTO prompts_raw (prompt_hash, model, pipeline, pipeline_version, stage, operator, labels, text, used_at)
    SELECT arrayJoin(['a1', 'b2']), 'model', '{PIPELINE}', '1', 'check', 'check',
        ['supported', 'contradicted', 'not_covered'], 'Check: {{text}}', now64(3)
    """


def _numbers(rows: Rows, exchanges: int = 1, claims: int = 1, turns: int = 0) -> str:
    """A query for the numbers of rows: c, e, k, and t where each has turns."""
    each = exchanges * claims
    exchange = f"intDiv(number, {claims}) % {exchanges}"
    split = f"{rows.first} + intDiv(number, {each}) AS c, {exchange} AS e, number % {claims} AS k"
    of_turns = f", arrayJoin(range({turns})) AS t" if turns else ""
    return f"SELECT {split}{of_turns} FROM numbers({(rows.end - rows.first) * each})"


def _at(ms: str) -> str:
    return f"fromUnixTimestamp64Milli({ms}, 'UTC')"


def _row(ms: str, what: str, *numbers: str) -> str:
    """A row id: milliseconds, and 74 bits of a hash in the places of a UUID version 7."""
    named = ", ".join((f"'{what}'", *(f"toUInt64({number})" for number in numbers)))  # their width counts
    high = f"bitOr(bitShiftLeft(toUInt64({ms}), 16), bitOr(28672, bitAnd(sipHash64('high', {named}), 4095)))"
    low = f"bitOr(9223372036854775808, bitAnd(sipHash64('low', {named}), 4611686018427387903))"
    return f"bitOr(bitShiftLeft(toUInt128({high}), 64), toUInt128({low}))"


def _text(seed: str, words: int) -> str:
    listed = ", ".join(f"'{word}'" for word in _WORDS)
    picked = f"arrayMap(i -> [{listed}][1 + sipHash64({seed}, i) % {len(_WORDS)}], range({words}))"
    return f"arrayStringConcat({picked}, ' ')"
