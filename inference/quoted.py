"""Text whose line breaks matter, as data: each of its lines is marked, so that none can pose as the prompt's own."""

from inference.room import Room
from inference.text import one_line, turns


def quoted(text: str) -> str:
    """Each turn (line) of the text on a line of its own after `> `. `inference.text.one_line` makes it harmless."""
    return "".join(f"> {line}\n" for turn in turns(text) if (line := one_line(turn)))


async def split_quoted(room: Room, text: str, tokens: int) -> list[str]:
    """Parts of the text that have at most `tokens` tokens each once quoted; cut between turns and sentences.

    Raises PromptRejected, AttemptsExhausted, EngineMisconfigured.
    """
    return await _split(room, text, tokens, tokens)


async def _split(room: Room, text: str, tokens: int, bare: int) -> list[str]:
    """bare: tokens that a part may have before it is quoted."""
    taken = await room.count(quoted(text))
    if taken <= tokens or bare <= 1:
        return [text]
    bare = max(1, min(bare, tokens * await room.count(one_line(text)) // taken) * 9 // 10)
    parts: list[str] = []
    for part in await room.split(text, bare):
        parts += await _split(room, part, tokens, bare)
    return parts
