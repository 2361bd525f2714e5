"""E-mail addresses, telephone numbers and card numbers give way to `[email]`, `[phone]` and `[card]`.

Every step takes time in proportion to the text, whatever the text is: what looks like an address or a number is found
by scanning once, and is judged within bounds of length.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from msgspec import structs

from streams.decode import Event
from streams.errors import WorkerMisconfigured
from streams.pipeline import Kind, Pipeline

if TYPE_CHECKING:
    from phonenumbers import PhoneNumberMatcher

Span = tuple[int, int]

_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]")
_DOMAIN = re.compile(r"(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
# Digits of any script, with at most one sign between two.
_DIGITS = re.compile(r"\d(?:[ \u00a0\u202f.\-]?\d)*")
_GROUP = re.compile(r"\d+")
# ISO/IEC 7812 and the lengths that issuers use: Visa, Mastercard (twice), American Express, JCB, Discover and UnionPay,
# Diners Club.
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|35\d{14,17}|6\d{15,18}|3[0689]\d{12,17}"
)
_CARD_DIGITS = range(13, 20)
_ISSUERS = "23456"
# E.164: at most 15 digits; some more for what people put in front of them.
_NUMBER = re.compile(r"[+＋(]?\(?\d(?:[ \u00a0\u202f().\-/]{0,3}\d){6,}")
_PHONE_DIGITS = 17
_AROUND = 10  # characters beside a number that tell whether it is one
_VALIDATED = 500  # numbers of one text, some 0.1 ms each; what looks like one after that is taken for one


class Redactor:
    """Finds what a pipeline's `redact` names."""

    def __init__(self, kinds: Sequence[Kind], regions: Sequence[str] = ()) -> None:
        """regions: countries, ISO 3166, whose numbers are known without `+`. Raises WorkerMisconfigured."""
        finders: dict[Kind, Callable[[str], Iterator[Span]]] = {
            "email": _emails,
            "card": _cards,
            "phone": _Phones(regions) if "phone" in kinds else _emails,
        }
        # An address may hold a number, and a card is no telephone number.
        self._finders = [(kind, finders[kind]) for kind in ("email", "card", "phone") if kind in kinds]

    def text(self, text: str, counts: Counter[str] | None = None) -> str:
        """The text without what is to be redacted. counts: is told how often each kind was found."""
        for kind, find in self._finders:
            parts: list[str] = []
            end = 0
            for first, last in find(text):
                if first < end:
                    continue
                parts += [text[end:first], f"[{kind}]"]
                end = last
            if parts:
                text = "".join(parts) + text[end:]
                if counts is not None:
                    counts[kind] += len(parts) // 2
        return text

    def event(self, event: Event, counts: Counter[str]) -> Event:
        """The event with its words, and those beside them, redacted."""
        before = counts.total()
        words = self.text(event.text, counts)
        context = tuple(self.text(said, counts) for said in event.context)
        turns = tuple(
            turn.model_copy(update={"text": said}) if (said := self.text(turn.text)) != turn.text else turn
            for turn in event.turns
        )
        if counts.total() == before and turns == event.turns:
            return event
        return structs.replace(event, text=words, context=context, turns=turns)


def _emails(text: str) -> Iterator[Span]:
    """From each @ to both sides: a local part has no @, so that no character is looked at twice."""
    end = 0
    at = text.find("@")
    while at >= 0:
        first = at
        while first > end and _LOCAL.match(text, first - 1):
            first -= 1
        domain = _DOMAIN.match(text, at + 1)
        if first < at and domain:
            end = domain.end()
            yield first, end
        at = text.find("@", max(at + 1, end))


def _cards(text: str) -> Iterator[Span]:
    """Groups of digits side by side that have the first digits, the length and the check digit of a card."""
    for run in _DIGITS.finditer(text):
        if run.end() - run.start() < _CARD_DIGITS.start:
            continue
        groups = [*_GROUP.finditer(text, run.start(), run.end())]
        digits = "".join(str(int(digit)) for group in groups for digit in group[0])
        begins = [0, *accumulate(group.end() - group.start() for group in groups)]
        ends = {end: number for number, end in enumerate(begins)}  # after so many groups
        done = 0
        for number, begin in enumerate(begins[:-1]):
            if number >= done and digits[begin] in _ISSUERS and (last := _card(digits, begin, ends)):
                done = last
                yield groups[number].start(), groups[last - 1].end()


def _card(digits: str, begin: int, ends: Mapping[int, int]) -> int:
    """After how many groups a card that begins here ends; 0 if none does."""
    for length in _CARD_DIGITS:
        if (last := ends.get(begin + length)) is not None:
            number = digits[begin : begin + length]
            if _CARD.fullmatch(number) and _luhn(number):
                return last
    return 0


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(number - 9 if number > 9 else number for number in doubled)) % 10 == 0


def redactor_of(pipeline: Pipeline) -> Redactor | None:
    """What redacts for a pipeline; None if it asks for nothing. Raises WorkerMisconfigured."""
    return Redactor(pipeline.redact, pipeline.phone_regions) if pipeline.redact else None


class _Phones:
    """Telephone numbers as `phonenumbers` knows them: with `+`, or as they are written in some countries."""

    def __init__(self, regions: Sequence[str]) -> None:
        try:
            import phonenumbers
        except ModuleNotFoundError as error:
            raise WorkerMisconfigured(
                f"redact: phone needs the extra `redact`: pip install 'weir[redact]' ({error})"
            ) from error
        if unknown := sorted(set(regions) - phonenumbers.SUPPORTED_REGIONS):
            raise WorkerMisconfigured(
                f"phone_regions: {', '.join(unknown)}: no such region; give ISO 3166 codes, such as US"
            )
        self._regions: Sequence[str | None] = [*regions] or [None]
        self._matcher: type[PhoneNumberMatcher] = phonenumbers.PhoneNumberMatcher
        self._leniency: Any = phonenumbers.Leniency.VALID

    def __call__(self, text: str) -> Iterator[Span]:
        validated = 0
        for found in _NUMBER.finditer(text):
            if sum(map(str.isdigit, found[0])) > _PHONE_DIGITS:
                continue
            validated += 1
            if validated > _VALIDATED:
                yield found.span()
                continue
            offset = max(0, found.start() - _AROUND)
            window = text[offset : found.end() + _AROUND]
            for region in self._regions:
                matches = [*self._matcher(window, region, self._leniency)]
                if matches:
                    yield from ((offset + match.start, offset + match.end) for match in matches)
                    break
