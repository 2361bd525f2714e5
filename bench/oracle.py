"""An engine that knows the answers: what annotators voted, over vLLM's API. It is no model, and is named `oracle`.

    python -m bench.oracle FILE.jsonl [FILE.jsonl ...] --port P [--allowed WORD]

To exercise on the real path what stands before a strong model where there is none. A line of FILE has a `text` and the
`votes` of its annotators by class, as the community sets have them; where there are classes but no vote for "fine"
(several classes can be voted for), the most frequent class says how many of the `annotators` (default 3) found fault.
The answer's probabilities are the shares of the votes: for the word of the allowed label (`ok`, `neither`, `clean`, or
--allowed) that of "fine", for each other word that of its class; what was voted for classes that the prompt has no word
for is shared out over the words that are not allowed. So the probability that something is wrong with a text is always
that of the votes. To a text that is not on record it answers all words alike.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from bench.instant_engine import Server, choice
from deploy.embedded.process import ChildProcess, free_port, http_ok
from inference.text import one_line

MODEL = "oracle"
FINE = ("ok", "neither", "clean")

_ANNOTATORS = 3
_LEAST = 1e-6  # of a probability: its logarithm has to be a number

Votes = Mapping[str, float]


class Oracle(ChildProcess):
    """The engine as a child process, ready when the constructor returns."""

    def __init__(self, data: Path, files: Sequence[Path], allowed: str = "") -> None:
        """data: folder for its log. files: what is on record. allowed: word of the allowed label, if none of FINE.

        Raises ProcessFailed.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "bench.oracle", *map(str, files), "--port", str(port)]
        super().__init__("oracle", [*argv, *(["--allowed", allowed] if allowed else [])], data / "oracle.log")
        self.wait_ready(lambda: http_ok(f"{self.url}/health"), 60)


class Record:
    """What was voted, by text as a prompt has it."""

    def __init__(self, allowed: Sequence[str] = FINE) -> None:
        self._allowed = set(allowed)
        self._votes: dict[bytes, Votes] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row. Raises ValueError if it has no text or no votes."""
        text, votes = row.get("text"), row.get("votes")
        if not text or not isinstance(votes, dict) or not votes:
            raise ValueError(f"row {row.get('id', '?')!r} has no `text` or no `votes`; the oracle knows nothing else")
        self._votes[_key(one_line(text))] = shares(votes, row.get("annotators", _ANNOTATORS))

    def __len__(self) -> int:
        return len(self._votes)

    def answer(self, prompt: str, words: Sequence[str]) -> list[float]:
        """The probability of each word after a prompt."""
        question = prompt.rpartition("\n")[0].rpartition("\n")[2]
        votes = self._votes.get(_key(question.partition("Message: ")[2]))
        if votes is None:
            return [1 / len(words)] * len(words)
        others = [word for word in words if word not in self._allowed]
        left = (1 - votes[""] - sum(votes.get(word, 0.0) for word in others)) / max(1, len(others))
        found = [votes[""] if word in self._allowed else votes.get(word, 0.0) + left for word in words]
        return [max(_LEAST, probability) for probability in found]


def shares(votes: Mapping[str, int], annotators: int) -> Votes:
    """Each class's share, `""` for fine; together 1.

    Classes that exclude each other have a vote each annotator, one of them fine. Where none is, an annotator may have
    voted for several, and what the most frequent class lacks of all annotators is fine.
    """
    fine = [name for name in votes if name in FINE]
    wrong = {name: count for name, count in votes.items() if name not in FINE}
    if fine:
        total = sum(votes.values())
        risk = 1 - sum(votes[name] for name in fine) / total if total else 0.0
    else:
        risk = min(1.0, max(wrong.values(), default=0) / annotators)
    together = sum(wrong.values()) or 1
    return {"": 1 - risk, **{name: risk * count / together for name, count in wrong.items()}}


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


class OracleServer(Server):
    """The instant engine's HTTP side with answers of the record."""

    model = MODEL

    def __init__(self, record: Record) -> None:
        super().__init__(0.0, {})
        self._record = record
        self._answers.on_record = self._choice

    def _choice(self, prompt: Any, labels: tuple[int, ...]) -> bytes:
        if not isinstance(prompt, str) or not labels:
            return b""
        words = {token: text.strip() for text, token in self._labels.items()}
        found = self._record.answer(prompt, [words.get(label, "") for label in labels])
        return choice(labels, {label: math.log(p) for label, p in zip(labels, found, strict=True)})


def main() -> None:
    options = argparse.ArgumentParser(prog="oracle")
    options.add_argument("files", type=Path, nargs="+")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--allowed", default="")
    chosen = options.parse_args()
    record = Record((*FINE, *filter(None, [chosen.allowed])))
    for file in chosen.files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                record.add(orjson.loads(line))
            except ValueError as error:
                options.exit(1, f"{file}:{number}: {error}\n")
    app = OracleServer(record).application()
    web.run_app(app, host="127.0.0.1", port=chosen.port, access_log=None, print=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
