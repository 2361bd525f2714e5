"""The few-shot prompt whose answer is one label token."""

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import Field

from inference.engine import Prompt
from inference.section import Section
from inference.text import one_line


class Example(Section):
    """A text and the label that it should get."""

    text: str = Field(min_length=1, max_length=1000, description="what a message of this label looks like")
    label: str = Field(description="one of the labels of this stage")


class LabelPrompt:
    """Everything that rows share comes first, so that the engine's prefix cache pays for it once.

    Each text stands on one line of its own after its marker. `inference.text.one_line` sees to it that a text cannot
    start a line, so no text can close its place and pose as an instruction, an example or an answer.
    """

    def __init__(
        self,
        instruction: str,
        definitions: Mapping[str, str],
        words: Mapping[str, str],
        examples: Sequence[Example],
    ) -> None:
        """instruction: what to do. definitions: label to its meaning. words: label to the word that answers for it."""
        lines = [one_line(instruction)]
        lines += [f"{words[label]}: {one_line(meaning)}" for label, meaning in definitions.items()]
        shots = [f"Message: {one_line(shot.text)}\nLabel: {words[shot.label]}\n" for shot in examples]
        self.shared = "\n".join(lines) + "\n\n" + "".join(f"{shot}\n" for shot in shots)

    def render(self, text: str, context: Sequence[str] = ()) -> Prompt:
        """The prompt for one text; the answer is a space and a word."""
        earlier = "".join(f"Earlier: {one_line(message)}\n" for message in context)
        return Prompt(self.shared, f"{earlier}Message: {one_line(text)}\nLabel:")

    def hash(self, *settings: object) -> str:
        """32 hexadecimal digits that change when the prompt, or one of the settings that shape an answer, changes."""
        return prompt_hash(self.render("{text}", ["{context}"]), *settings)


def prompt_hash(prompt: Prompt, *settings: object) -> str:
    """32 hexadecimal digits that change when the prompt, or one of the settings that shape an answer, changes."""
    return digest((prompt.text, settings))


def digest(content: object) -> str:
    """32 hexadecimal digits of what `repr` gives: for tuples, lists and named values, not for sets."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
