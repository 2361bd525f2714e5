"""What a guard model is to Weir: questions in the format that it was trained on, each answered by one token."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.engine import Prompt
from inference.text import one_line

_FENCE = re.compile(r"<\s*(/?\s*(?:begin|end)\b[^<>]{0,80})>", re.IGNORECASE)
_ROLE = re.compile(
    r":(?:(?<=user:)|(?<=agent:)|(?<=assistant:)|(?<=human question:)|(?<=chatbot response:)"
    r"|(?<=safety:)|(?<=categories:)|(?<=refusal:)|(?<=answer:))",
    re.IGNORECASE,
)
_RULER = re.compile("={3,}")


@dataclass(frozen=True, slots=True)
class Category:
    """One rule of a guard. code: what the guard answers for it. name: what it is called in the prompt. label: what
    verdicts call it, the same for rules of different guards that mean the same.
    """

    code: str
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that a guard was trained to give.

    token: its first token, told apart from those of the other answers. category: code of the rule that it names, if it
    names one. risk: from 0 to 1, how much of its probability counts against the text.
    """

    token: str
    category: str | None = None
    risk: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt up to where the guard decides, and the answers that it may give there."""

    prompt: Prompt
    answers: tuple[Answer, ...]


class Guard(Protocol):
    """A family of moderation models with one prompt format."""

    @property
    def name(self) -> str:
        """What pipeline files call it."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Published models that have this format."""
        ...

    @property
    def categories(self) -> tuple[Category, ...]:
        """Its rules, in the order of its model card."""
        ...

    @property
    def asks_twice(self) -> bool:
        """Whether it says first that a rule is broken, and only then which one."""
        ...

    @property
    def reads_context(self) -> bool:
        """Whether its format has a place for what was said before."""
        ...

    def questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        """What to ask about a text. More than one: each is about one rule, and the answers are independent.

        context: texts that came before it, oldest first. Text need not be harmless; it is made so here.
        """
        ...

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        """What to ask to learn the rule after `answer`, if the guard asks twice. Every answer is against the text."""
        ...


def harmless(text: str) -> str:
    """The text as one line that cannot pass for a part of a guard's prompt."""
    return inert(one_line(text))


def inert(text: str) -> str:
    """The text without what gives a guard's prompt its structure, line breaks aside.

    Beside special tokens, which `inference.text.one_line` takes care of, that is plain text: fences such as
    `<END CONVERSATION>`, which lose their angle brackets; roles such as `User:`, which get a space before the colon;
    and a row of equals signs, which gets shorter.
    """
    return _RULER.sub("==", _ROLE.sub(" :", _FENCE.sub(r"(\1)", text)))
