"""A browser's tab and pages of ``stepneg traces`` for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chromium import Tab, Unavailable, chromium
from stepneg.analysis.traces import traces
from stepneg.data.prepared import Built
from stepneg.problems import Problem
from tests.analysis import made_run
from tests.analysis.made_run import NASTY, made, write_run


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    try:
        with chromium() as found:
            yield found
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made(tmp_path_factory.mktemp("made") / "run")
    traces(folder)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every text is hostile: ids, questions, answers, solutions, facts, model outputs, its own name."""
    run = tmp_path_factory.mktemp("hostile") / "run <b>\u202e"
    problems = [Problem(f"p{i} {t}", f"q {t}", f"a {t}", f"s {t}", {f"f {t}": f"v {t}"}) for i, t in enumerate(NASTY)]
    raw = [t.encode("utf-8", "surrogatepass") for t in NASTY] + [b"\xff\xfe</script>\xc3"]
    encodable = [replace(p, question=p.question.encode(errors="replace").decode()) for p in problems]
    found = [
        replace(made_run.trace(encodable[i % len(NASTY)], ["x"], False), response_ids=ids, ends=(len(ids),))
        for i, ids in enumerate(made_run.ids(t) for t in raw)
    ]
    write_run(run, Built([], {}, found), encodable)
    rows = [replace(made_run.evaluated(p.id, t, False, t), question=t, answer=t, rule=t, meta=dict(p.meta))
            for p, t in zip(problems, NASTY, strict=True)]  # fmt: skip
    made_run.write_evaluation(run, rows, "test <i>")
    traces(run)
    return run
