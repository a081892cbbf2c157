"""The page of ``stepneg traces`` in a real browser: text stays text, nothing is loaded; filters, keys."""

import json

import pytest

from stepneg.analysis.solutions import Browsed, Settings, Solution, problem_row, read_solutions
from stepneg.analysis.traces import contents, page, traces
from stepneg.credit.values import advantages
from stepneg.data.prepared import Built
from tests.analysis import made_run
from tests.analysis.browsing import (
    complaints,
    every,
    listed,
    number_of,
    opened,
    requests,
    search,
    text,
    within,
)
from tests.analysis.made_run import ADA, BOB, NASTY, RIGHT, WRONG, made, pair, write_run

# --- what is shown


def test_numbers_signs_and_labels_of_the_steps(tab, run):
    for place, trace in [(0, RIGHT), (1, made_run.DETOUR), (2, WRONG)]:
        tab.open(run / "traces.html")
        for _ in range(place):
            tab.press("j")
        values = [c / n for n, c in trace.counts]
        gains = advantages(values)
        shown = every(tab, ".step .numbers b")
        assert [float(t.removeprefix("A ").replace("\u2212", "-")) for t in shown] == pytest.approx(gains, abs=0.0051)
        signs = ["+" if a > 0 else "\u2212" if a < 0 else "0" for a in gains]
        assert every(tab, ".step .sign") == signs + ["\u00b7"] * (len(trace.ends) - len(gains))
        assert number_of(tab, ".curve .point") == len(values)
        assert number_of(tab, ".curve .point.minus") == sum(a < 0 for a in gains)
    assert "FIRST PIT" in text(tab, "#step-2")
    assert number_of(tab, ".flag") == number_of(tab, ".ring") == 1
    assert "0 of 8 right" in text(tab, "#step-2")
    assert "not valued from here on" in text(tab, "#step-3")
    assert "first pit at step 2" in every(tab, ".curve title")[0]
    assert complaints(tab) == []


def test_the_pair_shows_what_both_sides_share_and_where_one_was_cut(tab, run):
    opened(tab, run)
    tab.press("w")
    assert every(tab, ".side h4 .unseen") == ["right", "wrong"]
    assert every(tab, ".side .common") == ["Ada gets 2.\n3 ", "Ada gets 2.\n3 "]
    assert text(tab, ".side.rejected .text") == "Ada gets 2.\n3 - 2 = 1\ncut after step 2: no end-of-sequence token"
    assert text(tab, ".side.chosen .text") == "Ada gets 2.\n3 + 2 = 5\n#### 5"
    assert "\u22127.50 nats" in text(tab, ".side.rejected")
    tab.press("c")
    assert text(tab, ".solution h3").startswith("\u2713")
    assert text(tab, "#count").startswith("9 solutions")  # the chosen one is no wrong one, so the filter went
    tab.press("c")
    assert "First pit: step 2 of 4." in text(tab, ".said")


def test_an_evaluation_shows_answer_reference_and_samples(tab, run):
    opened(tab, run)
    tab.press("G")
    assert "evaluation: test" in text(tab, ".part")
    facts = every(tab, ".solution .facts li")
    assert facts == ["extracted answer none", "reference 5", "rule no_answer", "samples right 2 of 3, majority right"]
    assert "Cut off by the token limit" in text(tab, ".solution")
    assert number_of(tab, ".curve") == 0


def test_runs_without_values_and_with_searched_pits(tab, tmp_path):
    searched = made(tmp_path / "searched", rollouts={"pit_error": 0.01})
    traces(searched)
    opened(tab, searched)
    tab.press("w")
    assert "counts say where it is, and no values" in text(tab, ".said")
    assert number_of(tab, ".step .numbers b") == number_of(tab, ".curve") == 0
    assert "0 of 8 right" in text(tab, ".step.pit")
    rows = [(pair(ADA, RIGHT, WRONG.response_ids)[0],)]
    plain = write_run(tmp_path / "plain", Built(rows, {"examples": 1.0}), [ADA])
    traces(plain)
    opened(tab, plain)
    assert "It is trained on." in text(tab, ".said")
    assert every(tab, "#marks button") == ["Right 1"]
    assert every(tab, ".step .text") == ["Ada gets 2.", "3 + 2 = 5", "#### 5"]
    assert complaints(tab) == []


def test_notes_and_facts_of_the_run_are_told(tab, tmp_path):
    run = made(tmp_path, k=2, tolerance=0.25)
    (run / "data" / "0123456789abcdef.problems.jsonl").unlink()
    traces(run)
    opened(tab, run)
    assert "an earlier version made it" in text(tab, "#notes")
    tab.click("#open-about")
    about = text(tab, "#about")
    for word in ("K of best-of-K values\t2", "0.25", "Pairs", "Left out", "decoded prompts"):
        assert word in about
    tab.press("Escape")
    assert number_of(tab, "dialog[open]") == 0


# --- hostile text


def test_hostile_text_stays_text_and_nothing_is_loaded(tab, hostile):
    opened(tab, hostile)
    for _ in range(2 * len(NASTY) + 1):
        assert number_of(tab, "script, style, link, img, iframe, object, base, a, [onerror], [onload]") == 3
        tab.press("j")
    for query in NASTY:
        search(tab, query)
        assert number_of(tab, "#detail img, #detail script, #rows script, #rows img, #detail a") == 0
    tab.press("?")
    tab.press("Escape")
    assert tab.run("typeof window.stolen") == "undefined"
    assert requests(tab) == [(hostile / "traces.html").resolve().as_uri()]
    assert complaints(tab) == []


def test_what_does_not_show_is_made_visible(tab, hostile):
    _, found = read_solutions(hostile, 1000)
    opened(tab, hostile)
    labels = set()
    for place in range(len(found.solutions)):
        shown = tab.run("document.querySelector('.steps').innerText")
        assert not set(shown) & set("\u202e\u202c\u2066\u2069\u200f\u2028\u2029\x00\x1b\x7f\u0085\ufeff")
        labels |= set(every(tab, ".steps .unprintable"))
        if place < len(NASTY) - 1:
            assert number_of(tab, ".problem h2 bdi") == 1
        tab.press("j")
    assert labels >= {"RLO", "PDF", "LRI", "PDI", "RLM", "LS", "PS", "NUL", "ESC", "DEL", "U+D83D", "U+DE00"}
    for selector in ("h1", "#marks", "#selects", "#list", "title"):
        assert "\u202e" not in tab.run(f"document.querySelector('{selector}').textContent")
    assert "[RLO]" in tab.run("document.title")
    search(tab, "evil")
    assert every(tab, ".steps mark") == ["evil"]


def test_the_policy_of_the_page_holds(tab, run):
    opened(tab, run)
    tab.run(
        "window.broken = []; addEventListener('securitypolicyviolation', (e) => broken.push(e.effectiveDirective)); 1"
    )
    tab.run("void (new Image().src = 'https://example.invalid/x.png')")
    tab.run("fetch('https://example.invalid/').catch(() => 1)")
    tab.run("document.head.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: 'x.css'}))")
    assert "TrustedHTML" in tab.run(
        "(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.message; } })()"
    )
    assert tab.run("(() => { try { return (0, eval)('1'); } catch (e) { return e.name; } })()") == "EvalError"
    tab.run("new Promise((done) => setTimeout(done, 50))")
    assert {"img-src", "connect-src", "style-src-elem"} <= set(tab.run("broken"))


# --- filters, search, keys


def test_filters_count_what_they_let_through(tab, run):
    opened(tab, run)
    assert every(tab, "#marks button") == [
        "Right 3", "Wrong 6", "First pit 2", "No pit 1", "Spurious step 1", "In a pair 3", "No answer 1", "Cut off 2"
    ]  # fmt: skip
    for mark, told in {
        "right": "3 of 9 solutions \u00b7 3 right, 0 wrong",
        "wrong": "6 of 9 solutions \u00b7 0 right, 6 wrong",  # takes the place of right
        "no-pit": "1 of 9 solutions \u00b7 0 right, 1 wrong",
        "pit": "2 of 9 solutions \u00b7 0 right, 2 wrong",
        "pair": "2 of 9 solutions \u00b7 0 right, 2 wrong",
        "spurious": "No solution passes the filters; press x to clear them.",
    }.items():
        tab.click(f".mark.{mark}")
        assert listed(tab) == told
        assert tab.run(f"document.querySelector('.mark.{mark}').ariaPressed") == "true"
    assert "Choose a solution" in text(tab, "#detail")
    tab.press("x")
    tab.press("G")
    tab.click(".mark.wrong")
    assert text(tab, ".place") == "6 of 6"  # the solution that was shown is among those that are left
    search(tab, "so")
    assert every(tab, ".steps mark") == ["So"]
    tab.press("x")
    tab.click(".mark.spurious")
    assert listed(tab).startswith("1 of 9")
    assert "Spurious: step 2 (an advantage of at most \u22120.30 in a right solution)." in text(tab, ".said")
    assert "SPURIOUS" in text(tab, "#step-2")


def test_filters_by_part_and_by_any_fact(tab, run):
    opened(tab, run)
    tab.click("#more summary")
    assert every(tab, "#selects label bdi") == ["Part", "level", "steps", "Order"]
    options = every(tab, "#selects label:nth-child(2) option")
    assert options == ["any", "Level 2 (7)", "Level 10 (1)"]  # in the order of numbers

    def choose(label: int, value: str) -> None:
        tab.run(
            f"(() => {{ const s = document.querySelectorAll('#selects select')[{label}]; s.value = {json.dumps(value)};"
            " s.dispatchEvent(new Event('change')); })()"
        )

    choose(1, "Level 2")
    assert listed(tab).startswith("7 of 9")
    choose(0, "1")
    assert listed(tab).startswith("2 of 9")
    assert text(tab, "#active") == "(2 set)"
    choose(1, "")
    assert listed(tab).startswith("3 of 9")
    tab.press("x")
    choose(3, "deepest drop first")
    assert every(tab, ".row .tags")[:2] == ["pit 2rejected", "pit 2rejected"]  # 0.625 to 0; then the detour of 0.5
    assert "spurious" in every(tab, ".row .tags")[2]


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("nuts", 6),
        ("NUTS bob", 1),
        ('"3 - 2 = 1"', 3),
        ("3 1 2 ada so", 1),
        ("made/1", 1),
        ("zebra", 0),
        ("(", 0),
        (".*", 0),
        ("  ", 9),
    ],
)
def test_search_goes_through_problems_and_solutions(tab, run, query, number):
    opened(tab, run)
    tab.press("/")
    assert tab.run("document.activeElement.id") == "search"
    for letter in query:
        tab.press(letter)
    assert tab.run("document.getElementById('search').value") == query
    assert number_of(tab, ".row") == number
    if number == 3:
        assert every(tab, ".steps mark") == ["3 - 2 = 1"]
    tab.press("Escape")
    assert tab.run("document.activeElement.id") == "list"


def test_keys(tab, run):
    opened(tab, run)

    def at() -> str:
        return text(tab, ".place").partition(" ")[0]

    for keys, place in {"j": 2, "jj": 4, "k": 3, "n": 6, "nn": 8, "p": 7, "G": 9, "g": 1, "k ": 1}.items():
        for key in keys:
            tab.press(key)
        assert at() == str(place), keys
        assert tab.run("location.hash") == f"#{place - 1}"
    tab.press("?")
    assert tab.run("document.querySelector('dialog[open]').id") == "help"
    assert len(every(tab, "#keys tr")) == 14
    tab.press("j")  # is not for the page behind
    tab.press("Escape")
    assert at() == "1"
    tab.run("document.getElementById('list').focus()")
    for key, place in {"ArrowDown": 2, "End": 9, "ArrowUp": 8, "Home": 1}.items():
        tab.press(key)
        assert at() == str(place)
        row = tab.run(
            "document.getElementById(document.getElementById('list').getAttribute('aria-activedescendant')).ariaPosInSet"
        )
        assert row == str(place)
    for key, told in {"r": "3 of 9", "w": "6 of 9", "w ": "9 solutions"}.items():
        tab.press(key.strip())
        assert listed(tab).startswith(told)


def test_an_address_names_a_solution(tab, run):
    opened(tab, run)
    tab.send("Page.navigate", url=f"{(run / 'traces.html').resolve().as_uri()}#4")
    within(5, lambda: text(tab, ".place") == "5 of 9")
    assert "unsolved" in every(tab, ".row[aria-selected=true] .tag")
    tab.run("void (window.old = true)")
    tab.send("Page.reload")
    within(5, lambda: tab.run("!window.old") and text(tab, ".place") == "5 of 9")


def test_only_rows_that_are_seen_are_in_the_page(tab, tmp_path):
    many = Browsed(
        [problem_row(f"p{i}", f"question {i}", "a", None, {"level": i % 5}) for i in range(5000)], parts=["x"]
    )
    many.solutions += [Solution(i // 4, 0, [f"solution {i}\n", "#### 1"], i % 2 == 0) for i in range(20_000)]
    file = tmp_path / "page.html"
    file.write_text(page(contents("run", Settings(), many)))
    tab.open(file)
    assert listed(tab) == "20,000 solutions \u00b7 10,000 right, 10,000 wrong"
    for key in ("j", "G", "k"):
        tab.press(key)
        assert number_of(tab, ".row") < 40
        assert number_of(tab, "*") < 1000
    assert text(tab, ".place") == "19,999 of 20,000"
    assert text(tab, ".row[aria-selected=true] .id") == "p4999"
    search(tab, "19998")
    assert listed(tab).startswith("1 of 20,000")


def test_bob_has_only_an_endless_solution(tab, run):
    opened(tab, run)
    search(tab, BOB.question)
    assert "Its steps are not valued." in text(tab, ".said")
    assert "no end-of-sequence token" in text(tab, ".solution")
