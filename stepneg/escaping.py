"""Text of others in our own output: a line on a terminal, a cell of a Markdown table."""

import html
import re
import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format (bidirectional ones too), half pairs, separators
LONGEST_LINE = 2000  # characters of an error
MARKUP = re.compile(r"\A[-#+]|[\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_])")  # not the _ within step_dpo


def visible(text: str) -> str:
    r"""The text with each character that hides, reorders or commands as ``\x1b`` or ``\u202e``; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c != "\n" and unicodedata.category(c) in HIDDEN else c for c in text
    )


def one_line(text: str) -> str:
    """The text as one visible line of bounded length."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


def markdown(text: str) -> str:
    """The text in Markdown as it stands, in a cell of a table too: no markup in it counts, and no HTML."""
    shown = MARKUP.sub(r"\\\g<0>", html.escape(visible(text).strip(), quote=False))
    return shown.replace("\n", "<br>")
