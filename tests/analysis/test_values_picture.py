"""The picture of a wrong solution draws whatever a policy wrote, and the pit that the data has found."""

import io
from types import SimpleNamespace

import pytest

from stepneg.analysis.values import describe, plot_values
from stepneg.callbacks import traces
from stepneg.callbacks.traces import StepValueTraces
from stepneg.credit.pairs import Trace
from stepneg.data.pairs import Pairs
from stepneg.data.prepared import Built
from stepneg.data.rollouts import Rollouts
from stepneg.data.solutions import TeacherSolutions
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling.vllm_engine import VLLMEngine


@pytest.mark.parametrize("text", ["so $x+&=3=2^{^{^{b$", "$\\frac{1}{$ " * 200, "a$b", "", "\\boxed{\n", "\u202e x"])
def test_any_text_is_drawn(text):
    out = io.BytesIO()
    plot_values([text, "#### 1"], [0.5, 0.0], 1, f"title {text[:20]}", "Q").savefig(out, dpi=50)
    assert out.getvalue().startswith(b"\x89PNG")


def test_counts_of_a_search_are_not_said_to_be_values() -> None:
    trace = Trace("p", (1,), (2, 3, 4), False, (1, 2, 3), ((16, 4), (1, 1), (12, 0)))
    text, figure = describe(trace, ["one", "two | a half", "three"], k=1, searched=True)
    assert text.splitlines()[2:] == [
        "| 1 | one | 1 / 1 |",
        "| 2 | two \\| a half **← first pit** | 0 / 12 |",
        "| 3 | three |  |",
    ]
    assert "no values" in figure.axes[0].get_xlabel()
    text, figure = describe(trace, ["one", "two", "three"], k=1)
    assert "Q = 0.25 before" in text
    assert "step value" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("options", "pit"),
    [({}, 2), ({"tolerance": 0.25}, None), ({"tolerance": 0.2}, 2), ({"k": 4}, None), (None, 2)],
)
def test_a_fit_shows_the_pits_that_its_data_uses(options, pit, tiny, tmp_path, monkeypatch) -> None:
    """Of 8 with 5 right, 4 are never all wrong. Data without these options have the default ones."""
    common = {"policy": tiny, "problems": Arithmetic(size=1)}
    if options is None:
        data = TeacherSolutions(**common)
    else:
        data = Pairs(rollouts=Rollouts(engine=VLLMEngine(), form="gsm8k"), **options, **common)
    data.built = Built([], {}, [Trace("p", (5,), (6, 7, 8), False, (1, 2, 3), ((8, 7), (8, 6), (8, 5)))])
    shown = []
    monkeypatch.setattr(traces, "describe", lambda *of, **how: shown.append(describe(*of, **how)) or shown[-1])
    trainer = SimpleNamespace(datamodule=data, is_global_zero=True, default_root_dir=tmp_path, logger=None)
    StepValueTraces().on_train_start(trainer, None)
    ((text, figure),) = shown
    marked = [line.split(" ")[1] for line in text.splitlines() if "first pit" in line]
    assert marked == ([] if pit is None else [str(pit)])
    assert ("one of 4" in figure.axes[0].get_xlabel()) == ((options or {}).get("k") == 4)
    assert (tmp_path / "figures" / "trace-0.png").exists()
