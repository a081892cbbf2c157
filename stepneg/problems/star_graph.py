"""Paths on star graphs (the paper, section 6.3; Bachmann and Nagarajan 2024).

``arms`` arms of ``length`` nodes each leave a start node; the goal ends one of them. A problem lists the edges in any
order, then start and goal; its solution is the path, a node a step::

    4,7|1,4|9,2|1,9/1,2=1,9,2

Along an arm each node names the next one. Only the first hop is a choice: it takes a look from the goal back to the
start. That is the problem's critical step.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stepneg.errors import InputError
from stepneg.problems.problem import Problem
from stepneg.problems.splits import Split, split_of


def draw_graph(rng: random.Random, arms: int, length: int, nodes: int) -> tuple[str, str]:
    """A random problem text, up to and with ``=``, and its path."""
    labels = rng.sample(range(nodes), arms * (length - 1) + 1)
    start, rest = labels[0], labels[1:]
    paths = [[start, *rest[i::arms]] for i in range(arms)]
    edges = [f"{a},{b}" for path in paths for a, b in pairwise(path)]
    rng.shuffle(edges)
    return f"{'|'.join(edges)}/{start},{paths[0][-1]}=", ",".join(map(str, paths[0]))


def check_line(question: str, path: str) -> str | None:
    """What is wrong with a line of a file of graphs; None if nothing is."""
    edges, _, ends = question.rstrip("=").rpartition("/")
    known = set(edges.split("|"))
    nodes = path.split(",")
    if ends != f"{nodes[0]},{nodes[-1]}":
        return f"the path leads from {nodes[0]} to {nodes[-1]}, asked is {ends!r}"
    if len(nodes) < 2:
        return "the path has no hop"
    hops = [f"{a},{b}" for a, b in pairwise(nodes)]
    missing = next((hop for hop in hops if hop not in known), None)
    return None if missing is None else f"the path takes {missing!r}, which is no edge"


@dataclass(frozen=True)
class StarGraph:
    """Problems on star graphs, generated or read from a file of Bachmann and Nagarajan's.

    Args:
        split: which of three disjoint sets; not of a file.
        size: number of problems; of a file at most.
        seed: which problems; the first n of a larger set are the set of size n.
        arms: arms of the start node (d).
        length: nodes of an arm, start and goal included.
        nodes: labels are drawn from 0 to nodes - 1.
        path: a text file, a problem a line as above, instead of generated ones.
    """

    split: Split = "train"
    size: int = 1000
    seed: int = 0
    arms: int = 2
    length: int = 4
    nodes: int = 20
    path: str | None = None

    def load(self) -> list[Problem]:
        """The problems; answer and solution are the path.

        Raises:
            InputError: impossible sizes, or a malformed line.
        """
        if self.size < 1:
            raise InputError(f"size: is {self.size}; give at least 1")
        if self.path is not None:
            found = list(self.read(Path(self.path)))
            if not found:
                raise InputError(f"{self.path}: holds no graph; give a text file, a graph a line")
            return found
        if self.arms < 1 or self.length < 2 or self.nodes < self.arms * (self.length - 1) + 1:
            raise InputError(
                f"a star of {self.arms} arms of {self.length} nodes does not fit {self.nodes} labels; set arms >= 1,"
                f" length >= 2 and nodes >= arms * (length - 1) + 1"
            )
        rng = random.Random(f"star/{self.arms}/{self.length}/{self.nodes}/{self.split}/{self.seed}")
        problems: dict[str, Problem] = {}
        tries = 0
        while len(problems) < self.size:
            question, path = draw_graph(rng, self.arms, self.length, self.nodes)
            tries += 1
            if tries > 100 * (self.size + 100):
                raise InputError(f"there are not {self.size} different graphs of this size; lower size")
            if split_of(question) == self.split and question not in problems:
                name = f"star/{self.split}/{self.seed}/{len(problems)}"
                problems[question] = Problem(name, question, path, path)
        return list(problems.values())

    def read(self, file: Path) -> Iterator[Problem]:
        """The problems of a file.

        Raises:
            InputError: there is no such file, or a line is not of the form.
        """
        try:
            raw = file.read_bytes()
            lines = raw.decode("utf-8-sig").splitlines()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error}); give a text file of graphs") from error
        except UnicodeDecodeError as error:
            number = raw.count(b"\n", 0, error.start) + 1
            raise InputError(f"{file}, line {number}: is no UTF-8 text; give a text file of graphs") from error
        for number, line in enumerate(lines[: self.size], 1):
            question, sign, path = line.strip().rpartition("=")
            wrong = check_line(question, path) if sign else "no '='"
            if wrong:
                raise InputError(f"{file}, line {number}: {wrong}; a line is EDGES/START,GOAL=PATH, as 1,2|1,3/1,2=1,2")
            yield Problem(f"{file.stem}/{number - 1}", f"{question}=", path, path)
