"""Text of strangers on a terminal, to which control characters and markup would be commands."""

from unicodedata import category

from rich.markup import escape


def plain(text: str) -> str:
    r"""The text with escapes, such as `\x1b`, in place of control characters."""
    return "".join(c.encode("unicode_escape").decode() if category(c) == "Cc" else c for c in text)


def plain_json(document: str) -> str:
    """The same for JSON, which stays the same JSON: encoders let some control characters through."""
    return "".join(f"\\u{ord(c):04x}" if category(c) == "Cc" else c for c in document)


def inert(text: str) -> str:
    """The text with neither control characters nor rich's markup."""
    return escape(plain(text))
