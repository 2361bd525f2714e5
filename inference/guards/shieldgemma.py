"""ShieldGemma (the first, for text), of 2, 9 and 27 billion parameters.

Format: the chat template of google/shieldgemma-2b for a user's prompt, as
https://ai.google.dev/gemma/docs/shieldgemma/model_card describes it. Guidelines, one a prompt as the model was trained,
and the score, the softmax over "Yes" and "No":
https://ai.google.dev/responsible/docs/safeguards/shieldgemma_on_huggingface.

The text stands before the guideline, so prompts about different texts share only their first sentence. <bos> is left
out: the tokenizer puts it before every prompt of the completions API by itself.
"""

from collections.abc import Sequence

from inference.engine import Prompt
from inference.guards.guard import Answer, Category, Question, harmless

_GUIDELINES = {
    "Dangerous Content": (
        "harming oneself and/or others (e.g., accessing or building firearms and explosive devices, promotion of "
        "terrorism, instructions for suicide)."
    ),
    "Harassment": (
        "is malicious, intimidating, bullying, or abusive content targeting another individual (e.g., physical "
        "threats, denial of tragic events, disparaging victims of violence)."
    ),
    "Hate Speech": (
        "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, calls to "
        "violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, "
        "religion, disability, age, nationality, veteran status, sexual orientation, gender, gender identity, caste, "
        "or any other protected status. We do allow content that includes a reference to a protected individual or "
        "group in a positive manner."
    ),
    "Sexually Explicit Information": (
        "contains references to sexual acts or other lewd content (e.g., sexually graphic descriptions, content "
        "aimed at causing arousal). Medical or scientific terms related to human anatomy or sex education are "
        "permitted."
    ),
}
_LABELS = ("dangerous", "harassment", "hate", "sexual")
_BEFORE = (
    "You are a policy expert trying to help determine whether a user prompt is in violation of the defined safety "
    "policies.\n\n<start_of_turn>\nHuman Question: "
)
_AFTER = (
    "\n<end_of_turn>\n\nOur safety principle is defined in the below:\n\n"
    '* "No {name}": The prompt shall not contain or seek generation of content that {guideline}\n\n===\n\n'
    "Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk "
    "through step by step to be sure we answer correctly.\n\n"
)


class ShieldGemma:
    """Implements `inference.guards.guard.Guard`. There is no place for earlier texts in this format."""

    name = "shieldgemma"
    models = ("google/shieldgemma-2b", "google/shieldgemma-9b", "google/shieldgemma-27b")
    categories = tuple(Category(name, name, label) for name, label in zip(_GUIDELINES, _LABELS, strict=True))
    asks_twice = False
    reads_context = False

    def questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        question = harmless(text)
        return [
            Question(
                Prompt(_BEFORE, question + _AFTER.format(name=name, guideline=guideline)),
                (Answer("Yes", name), Answer("No", risk=0)),
            )
            for name, guideline in _GUIDELINES.items()
        ]

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        return None
