"""Put the tables of the committed results into the pages: ``python -m docs.render`` after results have changed.

A page holds ``<!-- NAME -->``, the table, ``<!-- end -->``; a test checks that rendering changes nothing.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from stepneg.analysis import scaling, study
from stepneg.studies import credit, first_hop, spurious, theorem

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "scaling": lambda frame: scaling.markdown(frame, "sft"),
    "positives": lambda frame: study.table(frame, "one"),
    "spurious-sets": lambda frame: study.table(frame, "clean"),
    "spurious": spurious.table,
    "likelihood": spurious.likelihood_table,
    "credit": credit.table,
    "star_graph": lambda frame: study.table(frame, "sft_under"),
    "first_hop": first_hop.table,
    "rounds": lambda frame: study.table(frame, "sft"),
    "fast": lambda frame: study.table(frame, "every_prefix"),
    "theorem": theorem.table,
}
MARK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(text: str) -> str:
    """A page with the tables that its marks name."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- {name} -->\n\n{TABLES[name](pd.read_csv(RESULTS / f'{name}.csv'))}\n\n<!-- end -->"

    return MARK.sub(table, text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(rendered(page.read_text()))
