"""What a person reads who is to look at a verdict."""

from streams.decode import Event
from streams.records import Escalation, Verdict

_WIDTH = 11


def escalation_of(verdict: Verdict, event: Event) -> Escalation:
    """The verdict with the words that it is about, and a report."""
    return Escalation.unchecked(**vars(verdict), text=event.text, context=event.context, report=report(verdict, event))


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
        *(("Before", said) for said in event.context),
        ("Said", " ".join(event.text.split())),
        ("Document", documents or ("none was named" if verdict.operator == "check" else "")),
        ("It says", evidence or ("nothing that was found" if documents else "")),
        ("Scores", scores),
        ("Model", f"{verdict.model}, prompt {verdict.prompt_version or verdict.prompt_hash}"),
        ("Trace", f"weir lineage {verdict.row_id}"),
    ]
    return "\n".join(f"{name:<{_WIDTH}}{text}" for name, text in lines if text)
