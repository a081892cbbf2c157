"""Tables that are Markdown and LaTeX alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stepneg import escaping

NUMBER = re.compile(r"[-+]?[0-9][-+0-9.,%() toe]*")
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: its heading, and its label in LaTeX.
        caption: what it shows, in a sentence or two.
        headers: of the columns.
        rows: their cells.
        texts: how many columns from the left hold text; the others are set to the right.
    """

    name: str
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    @property
    def markdown(self) -> str:
        """Heading, caption and table."""
        rule = ["---" if column < self.texts else "---:" for column in range(len(self.headers))]
        head, *body = (f"| {' | '.join(map(shown, row))} |" for row in (self.headers, *self.rows))
        table = "\n".join([head, f"|{'|'.join(rule)}|", *body])
        return f"## {self.name}\n\n{self.caption}\n\n{table}"

    @property
    def latex(self) -> str:
        """A ``table`` environment of booktabs."""
        columns = "l" * self.texts + "r" * (len(self.headers) - self.texts)
        rows = [" & ".join(map(latex, row)) + r" \\" for row in self.rows]
        label = re.sub(r"\W+", "-", self.name.lower())
        return "\n".join(
            [
                r"\begin{table}", r"\centering", rf"\caption{{{latex(self.caption)}}}", rf"\label{{tab:{label}}}",
                rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(latex, self.headers)) + r" \\",
                r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}",
            ]
        )  # fmt: skip


def shown(cell: str) -> str:
    """A cell in Markdown; a number with its sign needs no escapes."""
    return cell if NUMBER.fullmatch(cell) else escaping.markdown(cell)


def latex(text: str) -> str:
    """The text in LaTeX as it stands."""
    return "".join(SPECIAL.get(c, c) for c in escaping.visible(text))
