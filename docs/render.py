"""Put the tables of the committed results into the pages: ``python -m docs.render`` after results have changed.

Results are docs/results/NAME.csv of studies and benchmarks/results/NAME.json of benchmarks. A page holds
``<!-- NAME -->``, the table, ``<!-- end -->``; a test checks that rendering changes nothing.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import (
    estimates,
    faults,
    growth,
    hostile,
    memory,
    pair_training,
    sampling,
    scale,
    solution_training,
    start_up,
    step_values,
    store,
    traces,
    training_profile,
    writers,
)
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
BENCHMARKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "estimates": estimates.table,
    "faults": faults.table,
    "growth": growth.table,
    "hostile": hostile.table,
    "memory": memory.table,
    "pair_training": lambda result: pair_training.table(result["rows"]),
    "sampling": sampling.table,
    "scale": scale.table,
    "solution_training": lambda result: solution_training.table(result["rows"]),
    "start_up": start_up.table,
    "step_values": step_values.table,
    "store": store.table,
    "traces": traces.table,
    "training_profile": training_profile.table,
    "writers": writers.table,
}
MEASURED = DOCS.parent / "benchmarks" / "results"
MARK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(text: str) -> str:
    """A page with the tables that its marks name."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        if name in BENCHMARKS:
            text = BENCHMARKS[name](json.loads((MEASURED / f"{name}.json").read_text()))
        else:
            text = TABLES[name](pd.read_csv(RESULTS / f"{name}.csv"))
        return f"<!-- {name} -->\n\n{text}\n\n<!-- end -->"

    return MARK.sub(table, text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(rendered(page.read_text()))
