"""Llama Guard 3, of 1 and 8 billion parameters, for text.

Format: the chat templates of meta-llama/Llama-Guard-3-1B and -8B, which
https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3/ describes. They differ in two things: 8B knows
S14, and 1B has a space before the end of the turn. Rules: MODEL_CARD.md of each in
https://github.com/meta-llama/PurpleLlama/tree/main/Llama-Guard3; the prompt has shorter names for three of them. Score:
the same card takes the probability of the first token for that of the class "unsafe". What follows "unsafe" is a line
break and the codes of the rules; Llama 3's tokenizer writes a code with two tokens, "S" and the whole number.

The template begins with <|begin_of_text|>, which is left out here: the tokenizer puts it before every prompt of the
completions API by itself. 1B's template ends before the line breaks that its answer begins with; they are part of the
prompt here, so that the next token is the decision.
"""

from collections.abc import Sequence

from inference.engine import Prompt
from inference.guards.guard import Answer, Category, Question, harmless

_CATEGORIES = (
    Category("S1", "Violent Crimes", "violence"),
    Category("S2", "Non-Violent Crimes", "crime"),
    Category("S3", "Sex Crimes", "sexual_crime"),
    Category("S4", "Child Exploitation", "child_exploitation"),
    Category("S5", "Defamation", "defamation"),
    Category("S6", "Specialized Advice", "specialized_advice"),
    Category("S7", "Privacy", "privacy"),
    Category("S8", "Intellectual Property", "intellectual_property"),
    Category("S9", "Indiscriminate Weapons", "weapons"),
    Category("S10", "Hate", "hate"),
    Category("S11", "Self-Harm", "self_harm"),
    Category("S12", "Sexual Content", "sexual"),
    Category("S13", "Elections", "elections"),
    Category("S14", "Code Interpreter Abuse", "code_abuse"),
)
_ANSWERS = (Answer("safe", risk=0), Answer("unsafe"))
_BEFORE = (
    "<|start_header_id|>user<|end_header_id|>\n\n"
    "Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy with the "
    "below categories.\n\n"
    "<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}<END UNSAFE CONTENT CATEGORIES>\n\n"
    "<BEGIN CONVERSATION>\n\n"
)
_AFTER = (
    "<END CONVERSATION>\n\n"
    "Provide your safety assessment for ONLY THE LAST User message in the above conversation:\n"
    " - First line must read 'safe' or 'unsafe'.\n"
    " - If unsafe, a second line must include a comma-separated list of violated categories.{space}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


class LlamaGuard:
    """Implements `inference.guards.guard.Guard`. Earlier texts become earlier turns of the user."""

    asks_twice = True
    reads_context = True

    def __init__(self, name: str, models: tuple[str, ...], categories: tuple[Category, ...], space: str) -> None:
        """space: what the model's template has before the end of the turn."""
        self.name = name
        self.models = models
        self.categories = categories
        listed = "".join(f"{category.code}: {category.name}.\n" for category in categories)
        self._before = _BEFORE.format(categories=listed)
        self._after = _AFTER.format(space=space)

    def questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        turns = "".join(f"User: {harmless(turn)}\n\n" for turn in (*context, text))
        return [Question(Prompt(self._before, turns + self._after), _ANSWERS)]

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        numbers = tuple(Answer(rule.code.removeprefix("S"), rule.code) for rule in self.categories)
        return Question(Prompt(question.prompt.shared, f"{question.prompt.own}unsafe\nS"), numbers)


LLAMA_GUARD_3_1B = LlamaGuard("llama-guard-3-1b", ("meta-llama/Llama-Guard-3-1B",), _CATEGORIES[:13], " ")
LLAMA_GUARD_3_8B = LlamaGuard(
    "llama-guard-3-8b", ("meta-llama/Llama-Guard-3-8B", "meta-llama/Llama-Guard-3-8B-INT8"), _CATEGORIES, ""
)
