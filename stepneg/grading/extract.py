r"""Find the final answer in a response. Every function is linear in the length of the text."""

import re

# \boxed or \fbox and the brace it opens, an escaped character (\{ opens nothing), or a brace.
BOX_TOKEN = re.compile(r"(?P<box>\\\\?(?:boxed|fbox)(?![A-Za-z])\s*)(?P<opens>\{)?|\\.|[{}]", re.DOTALL)
BARE_BOX = re.compile(r"[^\s$]*")  # what \boxed without braces holds
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
NUMBER = re.compile(rf"(?<![\w.)])-?\$?(?:{DIGITS})(?:/[0-9]+)?|(?:{DIGITS})(?:/[0-9]+)?")
# A number, then words that say of what: "$1,250.50 a day". A second number or an operator makes it something else.
NUMBER_WITH_UNIT = re.compile(
    rf"[\s*_`$€£]*(?P<number>-?\s?[$€£]?(?:{DIGITS})(?:/[0-9]+)?)\.?(?P<unit>[^0-9=+*/^<>]*)[*\s]*"
)
SCALE = re.compile(r"[\s*_-]*(?:hundred|thousand|million|billion|trillion|dozen|k\b|m\b|bn\b)", re.IGNORECASE)
STATED = re.compile(r"\banswer[ \t]{0,4}(?:is|:|=)[ \t:]{0,4}", re.IGNORECASE)
LABELLED = re.compile(r"^[ \t]{0,4}A:", re.MULTILINE)
INLINE_MATH = re.compile(r"(?<!\\)\$([^$\n]+)\$|\\\(([^\n]+?)\\\)")
LONGEST_LINE = 1000  # characters of a line in which a number is looked for


def whole(text: str) -> str | None:
    """All of it, without blanks at the ends; None for an empty text."""
    return text.strip() or None


def last_boxed(text: str) -> str | None:
    r"""What the last balanced ``\boxed{...}`` or ``\fbox{...}`` holds; also ``\boxed 5``.

    Returns:
        None without a box whose braces close, as in a response that was cut off.
    """
    if "box" not in text:  # most texts: no need to look at every brace
        return None
    opened: list[int | None] = []  # for each open brace: where its box's content starts, None for a plain brace
    last: tuple[int, int | None] | None = None  # start of the content, its end or None for a box without braces
    for token in BOX_TOKEN.finditer(text):
        if token["opens"]:
            opened.append(token.end())
        elif token["box"]:
            last = max(last or (-1, None), (token.end(), None), key=lambda span: span[0])
        elif token.group() == "{":
            opened.append(None)
        elif token.group() == "}" and opened:
            start = opened.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, token.start())
    if last is None:
        return None
    start, end = last
    content = text[start:end] if end is not None else BARE_BOX.match(text, start)[0]  # type: ignore[index]
    return content.strip() or None


def after_hashes(text: str) -> str | None:
    """The line behind the last ``####``."""
    _, mark, tail = text.rpartition("####")
    return (first_line(tail.lstrip()) or None) if mark else None


def first_line(text: str) -> str:
    """Up to the first line break, stripped."""
    return text.partition("\n")[0].strip()


def bare_number(line: str) -> str:
    """``18`` of ``$18 a day.``; the line as it is where it says more than one number and its unit."""
    found = NUMBER_WITH_UNIT.fullmatch(line) if len(line) <= LONGEST_LINE else None
    return found["number"] if found and not SCALE.match(found["unit"]) else line


def last_number(text: str) -> str | None:
    """The last number anywhere."""
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007
        pass
    return found.group() if found else None


def stated(text: str) -> str | None:
    """The rest of the line behind the last "the answer is", else behind the last ``A:`` that starts a line."""
    lowered = text.lower()
    for phrase, sign in ((STATED, "answer"), (LABELLED, "a:")):
        if sign not in lowered:  # much faster than the expression
            continue
        end = max((found.end() for found in phrase.finditer(text)), default=None)
        if end is not None and (line := first_line(text[end:])):
            return line
    return None


def stated_number(text: str) -> str | None:
    """The first number behind "the answer is" or ``A:``."""
    line = stated(text)
    found = NUMBER.search(line[:LONGEST_LINE]) if line else None
    return found.group() if found else None


def stated_formula(text: str) -> str | None:
    """The first ``$...$`` behind "the answer is" or ``A:``, or all of that line."""
    line = stated(text)
    found = INLINE_MATH.search(line) if line and len(line) <= LONGEST_LINE else None
    return (found[1] or found[2]).strip() if found else line
