"""Qwen3Guard-Gen, of 0.6, 4 and 8 billion parameters.

Format: the chat template of Qwen/Qwen3Guard-Gen-8B for the moderation of a prompt. Answer and rules:
https://github.com/QwenLM/Qwen3Guard: "Safety: " and one of Safe, Unsafe, Controversial, and on the next line
"Categories: " and their names. Qwen3's tokenizer writes some of these words with several tokens; the first ones differ,
and they are what is scored. How much "Controversial" counts is the user's choice: the technical report
(https://arxiv.org/abs/2510.14276) calls it strict to count it as unsafe, and loose to count it as safe.
"""

from collections.abc import Sequence

from inference.engine import Prompt
from inference.guards.guard import Answer, Category, Question, harmless

_CATEGORIES = (
    ("Violent", "violence", " Viol"),
    ("Non-violent Illegal Acts", "crime", " Non"),
    ("Sexual Content or Sexual Acts", "sexual", " Sexual"),
    ("PII", "privacy", " P"),
    ("Suicide & Self-Harm", "self_harm", " Suicide"),
    ("Unethical Acts", "unethical", " Un"),
    ("Politically Sensitive Topics", "politics", " Polit"),
    ("Copyright Violation", "intellectual_property", " Copyright"),
    ("Jailbreak", "jailbreak", " Jail"),
)
_WORDS = {" Safe": " Safe", " Unsafe": " Unsafe", " Cont": " Controversial"}
_BEFORE = (
    "<|im_start|>user\n"
    "# Task:\n"
    "1) Evaluate whether THE LAST USER's query belongs to safe or unsafe content based on our safety policy.\n"
    "2) Identify the category of unsafe content found.\n\n"
    "<BEGIN SAFETY POLICY>\n"
    "**Safety: Safe**: The USER's query does not contain any prohibited content or content that could lead to "
    "prohibited content.\n"
    "**Safety: Unsafe**: The USER's query contains prohibited content.\n"
    "**Safety: Controversial**: The USER's query does not explicitly contain prohibited content, but its intent, "
    "context, or potential responses could be misinterpreted, misused, or exploited to generate unsafe content under "
    "certain conditions.\n"
    "<END SAFETY POLICY>\n\n"
    "<BEGIN UNSAFE CONTENT CATEGORIES>\n"
    + "".join(f"{name}.\n" for name, _, _ in _CATEGORIES)
    + "<END UNSAFE CONTENT CATEGORIES>\n\n"
    "<BEGIN CONVERSATION>\n\n"
)
_AFTER = (
    "<END CONVERSATION>\n\n"
    "Provide your safety assessment for ONLY THE LAST **USER's query** in the above conversation:\n"
    " - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.\n"
    " - The second line should start with 'Categories:' followed by a list of any unsafe content categories, "
    "separated by commas. If the content is safe, use 'Categories: None'.<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    "Safety:"
)


class Qwen3Guard:
    """Implements `inference.guards.guard.Guard`. Earlier texts become earlier turns of the user."""

    name = "qwen3guard"
    models = ("Qwen/Qwen3Guard-Gen-0.6B", "Qwen/Qwen3Guard-Gen-4B", "Qwen/Qwen3Guard-Gen-8B")
    categories = tuple(Category(name, name, label) for name, label, _ in _CATEGORIES)
    asks_twice = True
    reads_context = True

    def __init__(self, controversial: float = 0.5) -> None:
        """controversial: how much of the probability of "Controversial" counts against a text, from 0 to 1."""
        self._answers = (Answer(" Safe", risk=0), Answer(" Unsafe"), Answer(" Cont", risk=controversial))

    def questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        turns = "".join(f"USER: {harmless(turn)}\n\n" for turn in (*context, text))
        return [Question(Prompt(_BEFORE, turns + _AFTER), self._answers)]

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        own = f"{question.prompt.own}{_WORDS[answer.token]}\nCategories:"
        rules = tuple(Answer(token, name) for name, _, token in _CATEGORIES)
        return Question(Prompt(question.prompt.shared, own), (*rules, Answer(" None")))
