"""Repetitions of a chain: what each fills in, and which part of them a job has."""

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.errors import InputError
from stepneg.pipeline import Cell, cells, part_of


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{root}/sft/last", "runs/x/size-25/seed-3/sft/last"),
        ("{seed}", "3"),
        ("{size}", "25"),
        ("{8*size}", "200"),
        ("{0*size}", "0"),
        ("{999999*size}", "24999975"),
        ("{size}{2*size},{size}-{seed}", "2550,25-3"),
        ('{"class_path": "A", "init_args": {"size": "{4*size}"}}', '{"class_path": "A", "init_args": {"size": "100"}}'),
        ("{question}\\n", "{question}\\n"),  # the prompt's own
        ("{size*8}", "{size*8}"),
        ("{1.5*size}", "{1.5*size}"),
        ("{-1*size}", "{-1*size}"),
        ("{ 8 * size }", "{ 8 * size }"),
        ("{8*seed}", "{8*seed}"),
        ("8*size", "8*size"),
        ("", ""),
    ],
)
def test_a_cell_fills_in_what_it_knows(text: str, filled: str) -> None:
    assert Cell(Path("runs/x/size-25/seed-3"), 3, 25).fill(text) == filled


def test_without_a_size_its_place_stays() -> None:
    assert Cell(Path("r/seed-0"), 0).fill("{root} {seed} {size} {8*size}") == "r/seed-0 0 {size} {8*size}"
    assert Cell(Path("r/seed-0"), 0, 0).fill("{size} {8*size}") == "0 0"


def test_constants_are_filled_in_too() -> None:
    cell = Cell(Path("r/seed-3"), 3, 25, {"base": "{root}/init", "problems": 7500, "ks": [1, 2], "lr": 1e-05})
    assert cell.fill("{base} {problems} {ks} {lr} {other}") == "r/seed-3/init 7500 [1, 2] 1e-05 {other}"
    assert cell.fill('{"size": "{problems}", "small": "{2*size}"}') == '{"size": "7500", "small": "50"}'
    assert Cell(Path("r"), 3).fill("{base}") == "{base}"


@given(st.integers(0, 10**6 - 1), st.integers(0, 10**5))
def test_a_multiple_is_a_product(factor: int, size: int) -> None:
    assert Cell(Path("r"), 0, size).fill(f"a{{{factor}*size}}b") == f"a{factor * size}b"


def test_cells_of_a_pipeline_and_of_a_sweep() -> None:
    assert cells(Path("r"), [0, 7]) == [Cell(Path("r/seed-0"), 0), Cell(Path("r/seed-7"), 7)]
    assert cells(Path("r"), [0, 7], [25, 50]) == [
        Cell(Path("r/size-25/seed-0"), 0, 25),
        Cell(Path("r/size-50/seed-0"), 0, 50),
        Cell(Path("r/size-25/seed-7"), 7, 25),
        Cell(Path("r/size-50/seed-7"), 7, 50),
    ]
    assert cells(Path("r"), [7], constants={"a": 1}) == [Cell(Path("r/seed-7"), 7, None, {"a": 1})]
    assert cells(Path("r"), [7], [25], {"a": 1}) == [Cell(Path("r/size-25/seed-7"), 7, 25, {"a": 1})]
    assert [c.name for c in cells(Path("r"), [7]) + cells(Path("r"), [7], [25])] == ["seed 7", "size 25, seed 7"]


@given(seeds=st.integers(0, 5), sizes=st.integers(1, 4), parts=st.integers(1, 30))
def test_parts_are_disjoint_and_together_everything(seeds: int, sizes: int, parts: int) -> None:
    every = cells(Path("r"), list(range(seeds)), list(range(sizes)))
    found = [part_of(every, f"{n}/{parts}") for n in range(1, parts + 1)]
    together = chain.from_iterable(found)
    assert sorted(together, key=lambda cell: (cell.seed, cell.size)) == every
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(part == [cell for cell in every if cell in part] for part in found)  # in order
    assert part_of(every, "1/1") == every


@pytest.mark.parametrize(
    "part",
    [
        "",
        "1",
        "0/4",
        "5/4",
        "1/0",
        "0/0",
        "-1/4",
        "1/-4",
        "a/b",
        "1/4/2",
        "1 / 4",
        " 1/4",
        "1/4\n",
        "1.5/4",
        "1/4x",
        "²/4",
    ],
)
def test_no_part_is_one_clear_line(part: str) -> None:
    with pytest.raises(InputError, match=r"is not one of 1/N, 2/N, \.\.\. N/N") as error:
        part_of(cells(Path("r"), [0, 1]), part)
    assert "\n" not in str(error.value)
    assert repr(part) in str(error.value)
