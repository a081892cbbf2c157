"""Star graphs: what is generated is a star with one way to its goal, and files of them are read line by line."""

import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepneg.errors import InputError
from stepneg.grading import grade
from stepneg.problems.splits import split_of
from stepneg.problems.star_graph import StarGraph, check_line, draw_graph

FORM = re.compile(r"(?P<edges>\d+,\d+(\|\d+,\d+)*)/(?P<start>\d+),(?P<goal>\d+)=")
SPLITS = ("train", "validation", "test")


def edges_of(question: str) -> list[tuple[int, int]]:
    found = FORM.fullmatch(question)
    assert found, question
    return [(int(a), int(b)) for a, b in (edge.split(",") for edge in found["edges"].split("|"))]


def ends_of(question: str) -> tuple[int, int]:
    found = FORM.fullmatch(question)
    assert found, question
    return int(found["start"]), int(found["goal"])


def ways(edges: list[tuple[int, int]], start: int, goal: int) -> list[list[int]]:
    """All ways along the edges that meet no node twice."""
    found, open_ways = [], [[start]]
    while open_ways:
        way = open_ways.pop()
        if way[-1] == goal:
            found.append(way)
        open_ways += [[*way, b] for a, b in edges if a == way[-1] and b not in way]
    return found


GOLDEN = ("10,17|17,13|10,16|1,8|13,0|16,1/10,8=", "10,16,1,8")


# --- one graph


@given(
    seed=st.integers(0, 10**6), arms=st.integers(1, 5), length=st.integers(2, 6), spare=st.sampled_from([0, 0, 1, 30])
)
def test_a_graph_is_a_star_with_one_way_to_its_goal(seed: int, arms: int, length: int, spare: int) -> None:
    labels = arms * (length - 1) + 1
    question, path = draw_graph(random.Random(seed), arms, length, labels + spare)
    edges, (start, goal) = edges_of(question), ends_of(question)
    assert len(edges) == len(set(edges)) == arms * (length - 1)
    nodes = {node for edge in edges for node in edge}
    assert len(nodes) == labels  # so no two arms share a node but the start
    assert nodes <= set(range(labels + spare))
    out, into = Counter(a for a, _ in edges), Counter(b for _, b in edges)
    assert out[start] == arms
    assert all(out[node] <= 1 for node in nodes - {start})
    assert into == dict.fromkeys(nodes - {start}, 1)
    tips = [node for node in nodes if not out[node]]
    assert len(tips) == arms
    assert goal in tips
    assert all([len(way) for way in ways(edges, start, tip)] == [length] for tip in tips)
    assert ways(edges, start, goal) == [[int(node) for node in path.split(",")]]
    assert check_line(question, path) is None


def test_nothing_but_the_edges_tells_the_arm() -> None:
    """Neither the order of the edges nor that of the labels gives the first hop away."""
    first_listed = smaller = 0
    problems = StarGraph(size=2000, nodes=50).load()
    for problem in problems:
        start, _ = ends_of(problem.question)
        hops = [b for a, b in edges_of(problem.question) if a == start]
        right = int(problem.answer.split(",")[1])
        first_listed += hops[0] == right
        smaller += min(hops) == right
    assert 900 < first_listed < 1100  # 4.5 standard deviations
    assert 900 < smaller < 1100


def test_edges_are_listed_in_any_order() -> None:
    goal_edge_last = sum(
        edges_of(p.question)[-1][1] == ends_of(p.question)[1] for p in StarGraph(size=600, arms=2, length=4).load()
    )
    assert 60 < goal_edge_last < 145  # one of six edges: 100 expected


# --- a set of problems


def test_splits_are_disjoint() -> None:
    sets = {split: {p.question for p in StarGraph(split=split, size=300).load()} for split in SPLITS}
    assert [len(questions) for questions in sets.values()] == [300] * 3  # none twice
    assert len(set.union(*sets.values())) == 900
    assert all(split_of(question) == split for split, questions in sets.items() for question in questions)
    # Small graphs, where a split could run into another's: 10 labels have 90 questions of one edge each.
    small = {split: StarGraph(split=split, size=5, arms=1, length=2, nodes=10).load() for split in SPLITS}
    assert len({p.question for problems in small.values() for p in problems}) == 15


def test_a_graph_that_is_drawn_again_is_no_new_problem() -> None:
    """Of 90 graphs, about 70 are for training: many are drawn twice before there are 60."""
    problems = StarGraph(size=60, arms=1, length=2, nodes=10).load()
    assert len({p.question for p in problems}) == 60
    assert [p.id for p in problems] == [f"star/train/0/{i}" for i in range(60)]


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    assert StarGraph(size=30).load() == StarGraph(size=70).load()[:30]
    assert StarGraph(size=30).load() == StarGraph(size=30).load()
    others = [StarGraph(size=30, seed=1), StarGraph(size=30, nodes=21), StarGraph(size=30, split="test")]
    assert all(not {p.question for p in o.load()} & {p.question for p in StarGraph(size=30).load()} for o in others)


def test_problems_are_the_same_everywhere() -> None:
    """Written down once: samples are stored by the text, and a policy is tested on what it was not trained on."""
    first = StarGraph(size=1, seed=3).load()[0]
    assert first.id == "star/train/3/0"
    assert (first.question, first.answer) == GOLDEN


def test_the_solution_is_the_answer() -> None:
    problems = StarGraph(size=40, arms=3, length=3).load()
    assert len({p.id for p in problems}) == 40
    for problem, other in pairwise(problems):
        assert problem.solution == problem.answer
        assert grade(problem.solution, problem.answer, "text").correct
        assert not grade(other.answer, problem.answer, "text").correct


@pytest.mark.parametrize(
    "sizes",
    [
        {"arms": 0},
        {"arms": -1},
        {"length": 1},
        {"arms": 2, "length": 4, "nodes": 6},
        {"arms": 5, "length": 5, "nodes": 20},
        {"arms": 1, "length": 2, "nodes": 2, "size": 5},  # 0,1 and 1,0: no five different ones
    ],
    ids=str,
)
def test_impossible_sizes_are_one_clear_line(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError) as error:
        StarGraph(**sizes).load()
    message = str(error.value)
    assert "\n" not in message
    if "size" in sizes:
        assert "5 different graphs" in message
        assert "lower size" in message
    else:
        assert f"{sizes.get('arms', 2)} arms of {sizes.get('length', 4)} nodes" in message
        assert f"{sizes.get('nodes', 20)} labels" in message


def test_just_enough_labels_do() -> None:
    (problem,) = StarGraph(size=1, arms=3, length=4, nodes=10).load()
    assert {node for edge in edges_of(problem.question) for node in edge} == set(range(10))


# --- files


def test_a_file_of_generated_graphs_is_read_back(tmp_path: Path) -> None:
    problems = StarGraph(size=20, arms=3, length=5, nodes=50).load()
    for end in ("\n", "\r\n"):
        file = tmp_path / "deg_3_path_5.txt"
        file.write_bytes("".join(f"{p.question}{p.solution}{end}" for p in problems).encode())
        read = StarGraph(path=str(file)).load()
        assert [(p.question, p.answer, p.solution) for p in read] == [
            (p.question, p.answer, p.solution) for p in problems
        ]
        assert [p.id for p in read] == [f"deg_3_path_5/{i}" for i in range(20)]
        assert StarGraph(path=str(file), size=7).load() == read[:7]


def test_a_line_of_the_module_is_read(tmp_path: Path) -> None:
    file = tmp_path / "graphs.txt"
    file.write_text("  4,7|1,4|9,2|1,9/1,2=1,9,2 ")
    (problem,) = StarGraph(path=str(file)).load()
    assert (problem.question, problem.answer) == ("4,7|1,4|9,2|1,9/1,2=", "1,9,2")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1,2|1,3/1,2", "no '='"),
        ("", "no '='"),
        ("1,2|1,3/1,3=1,2,3", "'2,3', which is no edge"),
        ("1,2|1,3/1,2=2,1,2", "from 2 to 2, asked is '1,2'"),
        ("1,2|1,3/1,2=1,3", "from 1 to 3, asked is '1,2'"),
        ("1,2|2,3/1,3=3,2,1", "from 3 to 1, asked is '1,3'"),  # backwards
        ("2,1/1,2=1,2", "'1,2', which is no edge"),  # against the edge
        ("1,2|1,3/1,2=", ""),
        ("1,2|1,3=1,2", "asked is"),
        ("=", ""),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "graphs.txt"
    good = "1,2|1,3/1,2=1,2"
    file.write_text(f"{good}\n{good}\n{line}\n{good}\n")
    with pytest.raises(InputError) as error:
        StarGraph(path=str(file)).load()
    message = str(error.value)
    assert message.startswith(f"{file}, line 3: ")
    assert fault in message
    assert "\n" not in message
    assert len(StarGraph(path=str(file), size=2).load()) == 2  # what lies behind the limit is not looked at


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"1,2/1,2=1,2\n1,\xe9/1,2=1,2\n")
    for file, said in (
        (latin, f"{latin}, line 2: is no UTF-8 text"),
        (tmp_path / "nowhere.txt", f"{tmp_path}/nowhere.txt: cannot be read"),
        (tmp_path, f"{tmp_path}: cannot be read"),
    ):
        with pytest.raises(InputError) as error:
            StarGraph(path=str(file)).load()
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)


node = st.sampled_from("123")


@given(
    edges=st.lists(st.tuples(node, node), min_size=1, max_size=6, unique=True),
    path=st.lists(node, min_size=2, max_size=4),
    asked=st.one_of(st.none(), st.tuples(node, node)),
)
def test_a_path_is_right_if_it_takes_edges_to_the_goal(
    edges: list[tuple[str, str]], path: list[str], asked: tuple[str, str] | None
) -> None:
    ends = asked or (path[0], path[-1])
    wrong = check_line(f"{'|'.join(map(','.join, edges))}/{','.join(ends)}=", ",".join(path))
    assert (wrong is None) == (set(pairwise(path)) <= set(edges) and ends == (path[0], path[-1]))


@given(st.text("123,|/= é", max_size=20), st.text("123, ", max_size=8))
def test_any_line_is_judged_in_a_line(question: str, path: str) -> None:
    wrong = check_line(question, path)
    assert wrong is None or (wrong and "\n" not in wrong)


@pytest.mark.parametrize(("question", "path"), [("1,2|1,3/1,1=", "1"), ("1,2|1,3/,=", ""), ("/,=", "")])
def test_a_path_has_a_hop(question: str, path: str) -> None:
    assert check_line(question, path)
