"""How much text fits beside what all prompts of an operator share, counted with the model's own tokenizer."""

import math
from collections.abc import Callable, Sequence

from inference.engine import Engine
from inference.errors import EngineMisconfigured
from inference.judgement import Passage
from inference.relevance import relevant
from inference.text import one_line, split

_SERVER_TOKENS = 4  # that the server puts around a prompt, and that come to be where text and prompt meet
_CONTEXT_LINE_TOKENS = 4  # "Earlier: " and the line break
_OVERLAP = 0.1  # share of a part that the next part repeats
_SHRINK = 0.9  # a part that is still too long is cut to this share of what would have fitted


class Room:
    """The tokens that a row's own words may have."""

    def __init__(self, engine: Engine, line: Callable[[str], str] = one_line) -> None:
        """line: makes text harmless for the prompt, as the prompt itself does."""
        self._engine = engine
        self._line = line
        self.tokens = 0

    async def measure(self, shared: str, answer_tokens: int) -> None:
        """Find out what is left. shared: what every prompt has. answer_tokens: what the model may write.

        Raises EngineMisconfigured if that is next to nothing, PromptRejected, AttemptsExhausted.
        """
        taken = await self.count(shared)
        self.tokens = self._engine.context_tokens - taken - answer_tokens - _SERVER_TOKENS
        if self.tokens < taken // 20 + 16:
            raise EngineMisconfigured(
                f"the prompt has {taken} tokens, its answer {answer_tokens}, and {self._engine.model} takes "
                f"{self._engine.context_tokens}: no room is left for text; use fewer or shorter examples"
            )

    async def parts(self, passage: Passage) -> tuple[list[str], tuple[int, ...]]:
        """The parts that the text is judged in, and which of its neighbours are read with it, in their own order.

        Text that fits is one part, with as many neighbours as fit into the rest and into the passage's own bound, the
        most relevant first. Longer text is split, and read without neighbours.
        """
        if not await self.fits(passage.text, self.tokens):
            return await self.split(passage.text), ()
        return [passage.text], await self._neighbours(passage)

    async def _neighbours(self, passage: Passage) -> tuple[int, ...]:
        """Bytes bound tokens, so tokens are counted only where the bytes do not fit."""
        if not passage.context:
            return ()
        sizes = [self._bytes(other) + _CONTEXT_LINE_TOKENS for other in passage.context]
        if sum(sizes) <= min(self.tokens - self._bytes(passage.text), passage.context_tokens):
            return tuple(range(len(sizes)))
        room = min(self.tokens - await self._tokens(passage.text), passage.context_tokens)
        read: list[int] = []
        for index in relevant(passage.text, passage.context):
            tokens = await self._tokens(passage.context[index]) + _CONTEXT_LINE_TOKENS
            if tokens <= room:
                room -= tokens
                read.append(index)
        return tuple(sorted(read))

    async def split(self, text: str, tokens: int = 0) -> list[str]:
        """Parts of at most `tokens` tokens each, 0 for the whole room; cut between turns and sentences, overlapping."""
        room = tokens or self.tokens
        if await self.fits(text, room):
            return [text]
        characters = max(1, int(len(text) * room / await self._tokens(text) * _SHRINK))
        parts: list[str] = []
        for part in split(text, characters, int(characters * _OVERLAP)):
            parts += [part] if await self.fits(part, room) else await self._halve(part, room)
        return parts

    async def _halve(self, text: str, room: int) -> list[str]:
        """For text that is denser in tokens than the rest."""
        parts: list[str] = []
        for half in split(text, max(1, math.ceil(len(text) / 2))):
            parts += [half] if await self.fits(half, room) else await self._halve(half, room)
        return parts

    async def fits(self, text: str, room: int) -> bool:
        """Whether the text has at most `room` tokens. Bytes bound tokens, so that most texts need not be counted."""
        return self._bytes(text) <= room or await self._tokens(text) <= room

    async def _tokens(self, text: str) -> int:
        return await self.count(self._line(text))

    def _bytes(self, text: str) -> int:
        """At least as many as the text has tokens."""
        return len(self._line(text).encode())

    async def count(self, text: str) -> int:
        """Tokens of the text; for an engine without tokenizer its bytes, which are at least as many."""
        tokens = await self._engine.tokenize(text)
        return len(text.encode()) if tokens is None else len(tokens)


def chosen(passage: Passage, read: Sequence[int]) -> list[str]:
    """The neighbours with these indexes."""
    return [passage.context[index] for index in read]
