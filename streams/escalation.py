"""What a person reads who is to look at a verdict."""

from streams.decode import Event
from streams.kafka import MAX_MESSAGE_BYTES
from streams.records import Escalation, Verdict

_WIDTH = 11
_LINE = 2_000  # characters of what was said; a message may have millions
_BEFORE = 20
_WORDS = MAX_MESSAGE_BYTES // 4  # bytes; the verdict on a claim has them as well


def escalation_of(verdict: Verdict, event: Event) -> Escalation:
    """The verdict with the words that it is about, and a report.

    Without the words if there are too many for one message: the store has them.
    """
    told = report(verdict, event)
    words = sum(len(part.encode()) for part in (event.text, *event.context))
    text, context = (event.text, event.context) if words <= _WORDS else ("", ())
    return Escalation.unchecked(**vars(verdict), text=text, context=context, report=told)


def report(verdict: Verdict, event: Event) -> str:
    """Some lines for people: what was said, what the document says, how sure the model is, and where to look on."""
    where = [f"turn {event.turn}"] if event.turn is not None else []
    where += [part for part in (event.author, event.lang, event.tenant) if part]
    evidence = str(verdict.output.get("evidence", ""))
    documents = ", ".join(event.documents)
    scores = ", ".join(f"{label} {score:.0%}" for label, score in verdict.scores.items())
    lines = [
        ("Verdict", f"{verdict.decision}: {verdict.label or 'no label'}, {verdict.confidence:.0%} sure"),
        ("In", " ".join(filter(None, [event.thread, f"({', '.join(where)})" if where else ""]))),
        ("When", f"{event.event_time:%Y-%m-%d %H:%M:%S} UTC"),
        *(("Before", _line(said)) for said in event.context[-_BEFORE:]),
        ("Said", _line(event.text)),
        ("Document", documents or ("none was named" if verdict.operator == "check" else "")),
        ("It says", _line(evidence) or ("nothing that was found" if documents else "")),
        ("Scores", scores),
        ("Model", f"{verdict.model}, prompt {verdict.prompt_version or verdict.prompt_hash}"),
        ("Trace", f"weir lineage {verdict.row_id}"),
    ]
    return "\n".join(f"{name:<{_WIDTH}}{text}" for name, text in lines if text)


def _line(words: str) -> str:
    line = " ".join(words[: 2 * _LINE].split())
    return line if len(line) <= _LINE and len(words) <= 2 * _LINE else f"{line[:_LINE]} …"
