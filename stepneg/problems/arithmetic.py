"""A generated task in GSM8K's own form: who has how many things after a story of events.

A story opens with a quantity, tells events, some of which do not change the quantity asked for
(a friend's, one that nearly happens, a verb that moves nothing), and asks what is left. The
worked solution says for each event what to do, does it, and ends in ``#### answer``::

    Mia has 12 coins. Mia finds 5 coins. A friend buys 4 coins. Mia admires 3 coins. Mia sells 6 coins.
    How many coins does Mia have now?

    Mia finds 5: add.
    12 + 5 = 17
    Then a friend buys 4: skip.
    Mia admires 3: skip.
    Then Mia sells 6: take.
    17 - 6 = 11
    #### 11

The arithmetic is easy and the operands are easy to find; the difficulty is *which* step to take. That
choice has a line of its own: what follows from a wrong one is not wrong in itself, and should not be unlearned.
Amounts often come back ("finds 5 ... loses 5"), so two wrong steps can cancel and a wrong solution
can still meet the right answer: a spurious step in the sense of the paper, section 5. "Then" comes
or does not come at random, so a problem has several right solutions.

For pretraining, :func:`misreading` and :func:`careless_texts` write the same stories as a careless author
would: half of the readings (a verb in a role) take a wrong step with a fixed probability of 0.5 to 0.95.
A model pretrained on that text is competent and biased, which is what a web-pretrained model is
to GSM8K: fine-tuning corrects the bias as far as its data reaches.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from stepneg.problems.problem import Problem
from stepneg.problems.splits import Split, split_of

NAMES = tuple(
    "Mia Tom Ann Leo Eva Max Zoe Sam Ivy Ben Amy Jon Liz Dan Kim Rob Sue Jim Pam Ted Una Vic Joy Ray Fay Gus Meg Ned"
    " Peg Sid".split()
)
ITEMS = tuple(
    "coins shells stamps cards beads buttons pencils books toys stickers ribbons bottles candles balloons magnets"
    " badges keys dolls kites hats cups ropes bricks stones spoons plates bells tickets".split()
)
GAINS = tuple(
    "finds buys gets receives wins earns collects gathers picks borrows makes orders inherits accepts grabs fetches"
    " acquires unpacks adopts claims obtains discovers digs steals recovers crafts builds imports keeps catches"
    " gains harvests scores pockets snatches uncovers unearths retrieves regains secures procures salvages rescues"
    " hoards stockpiles saves amasses nets lands bags scoops plucks hauls draws assembles produces prints bakes"
    " carves sews knits forges molds weaves brews grows breeds hatches invents designs extracts mines fishes"
    " captures seizes confiscates wangles scrounges forages reaps pulls lifts hooks traps deducts levies charters"
    " rents hires leases books reserves summons welcomes absorbs annexes wheedles cadges begs merits deserves".split()
)
LOSSES = tuple(
    "sells loses drops breaks donates lends returns discards mails ships burns trashes throws forgets wastes ruins"
    " tears exports delivers trades sends releases smashes spoils abandons misplaces melts sinks buries crushes"
    " spends gives gifts forfeits surrenders yields sheds dumps scraps junks recycles shreds shatters cracks snaps"
    " bends dents scorches drowns floods leaks spills scatters strews flings hurls tosses chucks ejects expels"
    " exiles banishes evicts removes deletes erases destroys wrecks demolishes bombs blasts dissolves evaporates"
    " eats drinks devours swallows chews consumes exhausts drains depletes squanders gambles bets risks sacrifices"
    " bequeaths awards grants pays refunds repays remits posts dispatches relays hands passes".split()
)
NEUTRALS = tuple(
    "sees counts paints washes wants admires polishes sketches sorts inspects dusts labels weighs measures wraps"
    " touches lists praises describes notices cleans dries stacks lines ranks rates tags names photographs films"
    " smells hears mentions recalls imagines likes loves hates fears studies examines checks tests compares"
    " arranges tidies folds irons decorates greets".split()
)
SIGNS = {verb: +1 for verb in GAINS} | {verb: -1 for verb in LOSSES} | {verb: 0 for verb in NEUTRALS}

Role = Literal["own", "friend", "nearly"]
LARGEST = 80  # quantities stay within 0..LARGEST, also in a careless author's solution


@dataclass(frozen=True)
class Event:
    """One sentence: somebody does something with ``amount`` things. ``role`` says whether it counts."""

    name: str
    verb: str
    amount: int
    role: Role

    @property
    def effect(self) -> int:
        """+1, -1 or 0: the true change of the quantity asked for, per unit of ``amount``."""
        return SIGNS[self.verb] if self.role == "own" else 0

    @property
    def words(self) -> str:
        """Who does what with how many."""
        who = {"own": self.name, "friend": "a friend", "nearly": f"{self.name} nearly"}[self.role]
        return f"{who} {self.verb} {self.amount}"


@dataclass(frozen=True)
class Story:
    """Who has how many of what, and what happens then."""

    name: str
    item: str
    start: int
    events: tuple[Event, ...]

    @property
    def question(self) -> str:
        """The problem text."""
        told = [f"{self.name} has {self.start} {self.item}."]
        told += [f"{capitalised(e.words)} {self.item}." for e in self.events]
        return " ".join([*told, f"How many {self.item} does {self.name} have now?"])


# A reading takes an event to the step chosen for it.
Reading = Callable[[Event], int]
CHOICES = {+1: "add", -1: "take", 0: "skip"}


def correct_reading(event: Event) -> int:
    """The step that the event asks for."""
    return event.effect


def capitalised(words: str) -> str:
    """With a capital letter at the beginning (``str.capitalize`` would lower the others)."""
    return words[0].upper() + words[1:]


def solve(story: Story, reading: Reading = correct_reading, style: int = 0) -> tuple[str, list[int]]:
    """Worked solution under a reading, and the quantity after each event, the opening one first.

    ``style`` is a set of bits: what is said of event i begins with "Then" if bit i is set.
    """
    lines = []
    quantities = [story.start]
    for i, event in enumerate(story.events):
        step, old = reading(event), quantities[-1]
        quantities.append(old + step * event.amount)
        words = f"then {event.words}" if style >> i & 1 else event.words
        lines.append(f"{capitalised(words)}: {CHOICES[step]}.")
        if step:
            lines.append(f"{old} {'+' if step > 0 else '-'} {event.amount} = {quantities[-1]}")
    return "\n".join([*lines, f"#### {quantities[-1]}"]), quantities


@dataclass(frozen=True)
class Misreading:
    """How a careless author misreads a verb in a role: with probability ``rate`` it writes ``step``."""

    rate: float
    step: int


def misreading(role: Role, verb: str) -> Misreading:
    """The fixed misreading of a verb in a role. About half are rare (0.05), the rest have rates of 0.5 to 0.95.

    Drawn from a hash of the words, so the table is the same everywhere and needs no file.
    """
    rng = random.Random(f"misreading/{role}/{verb}")
    rate = rng.uniform(0.5, 0.95) if rng.random() < 0.5 else 0.05
    sign = SIGNS[verb]
    if role != "own":
        step = sign  # counts what is not ours
    elif sign:
        step = -sign if rng.random() < 0.7 else 0  # the wrong direction, or overlooked
    else:
        step = rng.choice((+1, -1))
    return Misreading(rate, step)


ROLES: tuple[Role, ...] = ("own", "friend", "nearly")
MISREADINGS = {(r, v): misreading(r, v) for r in ROLES for v in SIGNS if r == "own" or SIGNS[v]}


def careless_reading(rng: random.Random) -> Reading:
    """A reading that misreads each event independently with its fixed rate."""

    def read(event: Event) -> int:
        wrong = MISREADINGS[event.role, event.verb]
        return wrong.step if rng.random() < wrong.rate else correct_reading(event)

    return read


def draw_story(rng: random.Random, events: int, distractors: int) -> Story:
    """A random story with ``events`` sentences that change the quantity and ``distractors`` that do not."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    story = [
        Event(name, rng.choice(GAINS if rng.random() < 0.5 else LOSSES), rng.randint(2, 9), "own")
        for _ in range(events)
    ]
    for i in range(1, events):
        # What was gained is often lost again (or the reverse): the source of spurious steps.
        if rng.random() < 0.3:
            first = story[i - 1]
            story[i] = Event(name, rng.choice(LOSSES if first.effect > 0 else GAINS), first.amount, "own")
    for _ in range(distractors):
        role = rng.choice(ROLES)
        verb = rng.choice(NEUTRALS if role == "own" else GAINS + LOSSES)
        story.insert(rng.randint(0, len(story)), Event(name, verb, rng.randint(2, 9), role))
    return Story(name, item, rng.randint(8, 40), tuple(story))


def in_range(quantities: list[int]) -> bool:
    """Whether every running quantity is one that the task uses."""
    return min(quantities) >= 0 and max(quantities) <= LARGEST


@dataclass(frozen=True)
class Arithmetic:
    """Generated word problems.

    Args:
        split: which of the three disjoint sets.
        size: number of problems.
        seed: which problems; the first n of a larger set are the set of size n.
        min_events: fewest sentences that change the quantity.
        max_events: most sentences that change the quantity.
        max_distractors: most sentences that do not.
    """

    split: Split = "train"
    size: int = 1000
    seed: int = 0
    min_events: int = 2
    max_events: int = 4
    max_distractors: int = 2

    def load(self) -> list[Problem]:
        """The problems, each with the correct worked solution."""
        rng = random.Random(f"arithmetic/{self.split}/{self.seed}")
        problems: dict[str, Problem] = {}
        while len(problems) < self.size:
            story = draw_story(rng, rng.randint(self.min_events, self.max_events), rng.randint(0, self.max_distractors))
            solution, quantities = solve(story, style=rng.getrandbits(len(story.events)))
            if split_of(story.question) != self.split or not in_range(quantities) or story.question in problems:
                continue
            problems[story.question] = Problem(
                id=f"arithmetic/{self.split}/{self.seed}/{len(problems)}",
                question=story.question,
                answer=str(quantities[-1]),
                solution=solution,
                meta={
                    "events": sum(e.effect != 0 for e in story.events),
                    "distractors": sum(e.effect == 0 for e in story.events),
                },
            )
        return list(problems.values())


CHOICE_LINE = re.compile(r"(?:then )?(?P<words>.+): (?P<choice>add|take|skip)\.", re.IGNORECASE)
SUM_LINE = re.compile(r"(?P<before>-?[0-9]+) [-+] [0-9]+ = (?P<total>-?[0-9]+)")


def course(solution: str, total: str = "") -> list[tuple[str, ...]]:
    """Where a solution stands after each of its lines: the events read, the quantity, a choice not yet carried out.

    Nothing is left to carry out after a skip, as after a sum. A line that is none of the task's is no place to stand.

    Args:
        solution: lines as :func:`solve` writes them.
        total: the quantity at the beginning.
    """
    states: list[tuple[str, ...]] = []
    events: tuple[str, ...] = ()
    for line in filter(str.strip, solution.split("\n")):
        if choice := CHOICE_LINE.fullmatch(line):
            events = (*events, choice["words"].lower())
            states.append((*events, total, "done" if choice["choice"].lower() == "skip" else choice["choice"]))
        elif done := SUM_LINE.fullmatch(line):
            total = done["total"]
            states.append((*events, total, "done"))
        else:
            states.append((line,))
    return states


def true_pit(teacher: str, response: str) -> int | None:
    """The line (from 1, blank ones not counted) of a wrong solution at which it left the right course for good.

    The course is that of the teacher's solution: the same events read, the same quantity, the same choice. A solution
    that returns to it (two wrong steps cancel) has not left it for good; one that ends too early left it with its last
    line.

    Returns:
        None if the solution ends on the course, so is right, or if it is blank.
    """
    sums = [found for line in teacher.split("\n") if (found := SUM_LINE.fullmatch(line))]
    start = sums[0]["before"] if sums else ""
    right, taken = course(teacher, start), course(response, start)
    if not taken or taken[-1] == right[-1]:
        return None
    on_course = [number for number, state in enumerate(taken, 1) if state in right]
    return min((on_course[-1] if on_course else 0) + 1, len(taken))


def with_spurious_step(solution: str, rng: random.Random) -> tuple[str, int] | None:
    """The same solution with an event counted that should be skipped, and then forgotten: wrong, but the answer stays.

    Returns:
        The text and the number (from 1, blank lines not counted) of the line with the wrong choice; None if nothing is
        skipped.
    """
    lines = solution.split("\n")
    places = [i for i, line in enumerate(lines) if line.endswith(": skip.")]
    rng.shuffle(places)
    for i in places:
        states = [state for state in course("\n".join(lines[:i])) if len(state) > 1 and state[-1] == "done"]
        amount = re.search(r" ([0-9]+): skip\.", lines[i])
        if not states or not states[-1][-2] or not amount:
            continue  # the quantity stands in the question only
        total = int(states[-1][-2])
        for choice, sign in rng.sample([("add", 1), ("take", -1)], 2):
            new = total + sign * int(amount[1])
            if 0 <= new <= LARGEST:
                wrong = f"{lines[i].removesuffix('skip.')}{choice}."
                done = f"{total} {'+' if sign > 0 else '-'} {amount[1]} = {new}"
                return "\n".join([*lines[:i], wrong, done, *lines[i + 1 :]]), sum(
                    map(bool, map(str.strip, lines[:i]))
                ) + 1
    return None


def careless_texts(seed: int, max_events: int, max_distractors: int) -> Iterator[tuple[str, str]]:
    """Endless (question, solution) pairs for pretraining, misread as :func:`misreading` says, from the train split."""
    rng = random.Random(f"careless/{seed}")
    while True:
        story = draw_story(rng, rng.randint(1, max_events), rng.randint(0, max_distractors))
        solution, quantities = solve(story, careless_reading(rng), rng.getrandbits(len(story.events)))
        if split_of(story.question) == "train" and in_range(quantities):
            yield story.question, solution
