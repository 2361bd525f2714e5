"""gpt-oss-safeguard, of 20 and 120 billion parameters: a model that judges by a policy of the user's.

Format: harmony (https://github.com/openai/harmony/blob/main/docs/format.md), with the policy as the developer's
instructions, and the policy's sections as https://cookbook.openai.com/articles/gpt-oss-safeguard-guide recommends them;
the words are ours. No date stands in the system message: it would change every prompt once a day, and harmony's own
renderer leaves it out where none is set.

The guide has the model reason first. Here the prompt goes on to the final channel at once, so that the answer costs one
token: the policy is read, but nothing is reasoned about.
"""

import string
from collections.abc import Mapping, Sequence

from inference.engine import Prompt
from inference.guards.guard import Answer, Category, Question, harmless
from inference.prompt import Example
from inference.text import one_line

_SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\n"
    "Reasoning: low\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
)
_POLICY = (
    "# Content policy\n\n"
    "## INSTRUCTIONS\n\n"
    "Judge the message against this policy. Earlier messages, if there are any, only help to understand it. "
    "{format}\n\n"
    "## VIOLATES\n\n{violates}\n"
    "## SAFE (0)\n\n{safe}\n\n"
    "{format}{examples}"
)
_NOT_A_CATEGORY = "0"


class GptOssSafeguard:
    """Implements `inference.guards.guard.Guard`."""

    name = "gpt-oss-safeguard"
    models = ("openai/gpt-oss-safeguard-20b", "openai/gpt-oss-safeguard-120b")
    asks_twice = False
    reads_context = True

    def __init__(self, safe: str, policy: Mapping[str, str], examples: Sequence[Example] = ()) -> None:
        """safe: what is allowed. policy: label to definition, at most 26. examples: solved; any label that the policy
        does not have stands for what is allowed.
        """
        self.categories = tuple(
            Category(letter, label, label) for letter, label in zip(string.ascii_uppercase, policy, strict=False)
        )
        letters = {category.label: category.code for category in self.categories}
        listed = ", ".join([_NOT_A_CATEGORY, *letters.values()])
        shots = (
            f"Message: {harmless(shot.text)}\nAnswer: {letters.get(shot.label, _NOT_A_CATEGORY)}\n" for shot in examples
        )
        solved = "\n".join(shots)
        instructions = _POLICY.format(
            format=f"Return exactly one character: {listed}. Do not explain it.",
            violates="".join(f"{letters[label]} = {label}: {one_line(meaning)}\n" for label, meaning in policy.items()),
            safe=one_line(safe),
            examples=f"\n\n## EXAMPLES\n\n{solved}" if solved else "",
        )
        developer = f"<|start|>developer<|message|># Instructions\n\n{instructions}<|end|>"
        self._before = f"{_SYSTEM}{developer}<|start|>user<|message|>"
        self._answers = (
            Answer(_NOT_A_CATEGORY, risk=0),
            *(Answer(category.code, category.code) for category in self.categories),
        )

    def questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        earlier = "".join(f"Earlier: {harmless(turn)}\n" for turn in context)
        own = f"{earlier}Message: {harmless(text)}<|end|><|start|>assistant<|channel|>final<|message|>"
        return [Question(Prompt(self._before, own), self._answers)]

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        return None
