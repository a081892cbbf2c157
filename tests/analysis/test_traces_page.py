"""The page of ``stepneg traces`` in a real browser: text stays text, nothing is loaded; filters, keys, looks."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chromium import Tab, Unavailable, chromium
from stepneg.analysis.solutions import Browsed, Settings, Solution, problem_row, read_solutions
from stepneg.analysis.traces import contents, page, traces
from stepneg.credit.values import advantages
from stepneg.data.prepared import Built
from stepneg.problems import Problem
from tests.analysis import made_run
from tests.analysis.made_run import ADA, BOB, RIGHT, WRONG, made, pair, write_run

SPREAD = (("light", 1280, 900, False), ("dark", 1280, 900, True), ("phone", 390, 844, False))


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


def opened(tab: Tab, run: Path, **options: object) -> Tab:
    tab.open(run / "traces.html", **options)  # type: ignore[arg-type]
    return tab


def text(tab: Tab, selector: str) -> str:
    return tab.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")


def every(tab: Tab, selector: str) -> list[str]:
    return tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


def number_of(tab: Tab, selector: str) -> int:
    return tab.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def listed(tab: Tab) -> str:
    return text(tab, "#count")


def search(tab: Tab, query: str) -> None:
    tab.run(
        f"(() => {{ const s = document.getElementById('search'); s.value = {json.dumps(query)};"
        " s.dispatchEvent(new Event('input')); })()"
    )


def complaints(tab: Tab) -> list[object]:
    """Exceptions and messages of the console, among which are violations of the page's policy."""
    told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return [event for event in tab.events if event.get("method") in told]


def requests(tab: Tab) -> list[str]:
    return [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]


def sideways(tab: Tab) -> list[str]:
    """What reaches beyond the window's right edge, other than within something that clips it."""
    return tab.run(
        "[document.documentElement.scrollWidth > innerWidth ? 'the page' : '',"
        " ...[...document.querySelectorAll('body *')].filter((e) => !e.closest('.unseen, svg, .row')"
        " && e.getBoundingClientRect().width && e.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map((e) => e.tagName + '.' + e.className)].filter(Boolean)"
    )


def within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline


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

NASTY = [
    "<script>window.stolen = 1</script>",
    "</script><script>window.stolen = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.stolen = 1'>",
    "<svg onload=window.stolen=1><a href='javascript:window.stolen=1'>x</a>",
    "&lt;b&gt; &amp; {{7*7}} ${7*7} @@data@@",
    "\u202eevil\u202c \u2066in\u2069 \u200fr",
    "a\u2028b\u2029c",
    "nul \x00 esc \x1b[31m del \x7f",
    "half \ud83d and \ude00",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f680 z\u0351\u0352\u0353\u0354algo",
    "w" * 5000,
    "$\\frac{1}{2}$ \\boxed{",
]


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


# --- looks


@pytest.mark.parametrize(("name", "width", "height", "dark"), SPREAD)
def test_pictures_and_no_scrolling_sideways(tab, run, hostile, tmp_path, name, width, height, dark):
    for what, folder in {"made": run, "hostile": hostile}.items():
        opened(tab, folder, width=width, height=height, dark=dark)
        for selector in (".mark.wrong", "#more summary"):
            tab.click(selector)
        assert sideways(tab) == []
        tab.picture(tmp_path / f"{what}-{name}-list.png")
        tab.click("#row-0")
        for _ in range(5):
            assert sideways(tab) == []
            tab.press("j")
        tab.picture(tmp_path / f"{what}-{name}.png")
    assert all(file.stat().st_size > 10_000 for file in tmp_path.glob("*.png"))


def test_on_a_phone_the_list_and_a_solution_take_turns(tab, run):
    opened(tab, run, width=390, height=844)
    assert tab.run("document.querySelector('main').offsetParent === null")
    tab.click("#row-2")
    assert "First pit: step 2 of 4." in text(tab, "#detail")
    assert tab.run("document.querySelector('nav').offsetParent === null")
    assert tab.run("document.querySelector('.curve').getBoundingClientRect().width") > 300
    tab.click(".back")
    assert number_of(tab, ".row[aria-selected=true]") == 1
    assert tab.run("document.activeElement.id") == "list"


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_of_the_curve_have_room_wherever_the_pit_is(tab, tmp_path, width):
    """All within the curve, none on another."""
    browsed = Browsed([problem_row("p", "q", "a", "s", {})], parts=["training data"])
    for pit in range(1, 10):
        values = [0.625, *(0.75 if i % 2 else 0.375 for i in range(1, pit)), 0.0]
        counts = tuple((8, round(8 * q)) for q in values)
        browsed.solutions.append(Solution(0, 0, [f"step {i}\n" for i in range(9)], False, counts, values, pit=pit))
    file = tmp_path / "page.html"
    file.write_text(page(contents("run", Settings(), browsed)))
    for place in range(9):
        tab.open(file, width=width, height=1600)  # all rows are seen
        tab.click(f"#row-{place}")
        boxes = tab.run(
            "[document.querySelector('.curve'), ...document.querySelectorAll('.curve .value')]"
            ".map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.right, b.top, b.bottom])"
        )
        (left, right, top, bottom), labels = boxes[0], boxes[1:]
        assert 2 <= len(labels) <= place + 2  # on a phone every other one
        for number, (begin, end, high, low) in enumerate(labels):
            assert left <= begin <= end <= right
            assert top <= high <= low <= bottom
            for other in labels[:number]:
                assert end <= other[0] or other[1] <= begin or low <= other[2] or other[3] <= high


def test_on_a_phone_an_address_leads_to_the_solution_that_it_names(tab, run):
    """A link from a colleague, a reloaded page; beside the list there is no solution to come back to."""
    opened(tab, run, width=390, height=844)
    assert tab.run("location.hash") == ""
    tab.run("new Promise((done) => { addEventListener('hashchange', done); location.hash = '#2'; })")
    assert tab.run("document.body.classList.contains('reading')")
    shown = text(tab, "#detail")
    tab.reload()
    assert text(tab, "#detail") == shown
    tab.click(".back")
    assert tab.run("location.hash") == ""


PIXEL = """const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const pixel = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };"""
# Least first; a picture's text has its colour as its fill, and never an offsetParent.
CONTRAST = """(() => {
  PIXEL
  const linear = (v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = pixel(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const leaves = [...document.querySelectorAll("body *")].filter((e) =>
    (e.offsetParent || (e instanceof SVGTextElement && e.checkVisibility())) && !e.closest(".unseen, :disabled")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return leaves.map((e) => {
    const ink = getComputedStyle(e)[e instanceof SVGTextElement ? "fill" : "color"];
    const [a, b] = [light(pixel(ink)), light(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + "." + e.getAttribute("class")];
  }).sort((x, y) => x[0] - y[0]);
})()""".replace("PIXEL", PIXEL)
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "full": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]
    ],
}  # fmt: skip
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(pixel: list[int], vision: list[list[float]]) -> np.ndarray:
    """A colour of sRGB in CIELAB, as this vision sees it."""
    rgb = np.array(pixel[:3]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(seen > (6 / 29) ** 3, np.cbrt(seen), seen * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_its_ground(tab, tmp_path, dark):
    """Contrast of at least 4.5 (WCAG AA), on steps of the greatest advantages too, which any vision tells apart."""
    extremes = Browsed([problem_row("p", "q", "a", "s", {"level": 1})], parts=["training data"])
    counts = ((8, 8), (8, 0), (8, 8), (8, 4), (8, 4))
    extremes.solutions.append(Solution(0, 0, list("abcd"), True, counts, [1.0, 0.0, 1.0, 0.5, 0.5], spurious=[1, 3]))
    extremes.solutions.append(Solution(0, 0, list("abcd"), False, counts[:2], [1.0, 0.0], pit=1))
    file = tmp_path / "page.html"
    file.write_text(page(contents("run", Settings(), extremes)))
    tab.open(file, dark=dark)
    tab.click(".mark.wrong")
    tab.press("?")
    for _ in range(2):
        assert tab.run(CONTRAST)[0][0] >= 4.5, tab.run(CONTRAST)[:5]
        tab.press("Escape")
    found = tab.run(CONTRAST)
    assert found[0][0] >= 4.5, found[:5]
    assert {"text.axis", "text.value pit"} <= {name for _, name in found}
    tab.press("r")
    assert tab.run(CONTRAST)[0][0] >= 4.5, tab.run(CONTRAST)[:5]
    assert every(tab, ".step b")[:2] == ["A \u22121.00", "A +1.00"]
    ground = "pixel(getComputedStyle(document.querySelector(s)).backgroundColor)"
    colours = tab.run(f"(() => {{ {PIXEL} return ['.step.minus', '.step.plus'].map((s) => {ground}); }})()")
    for name, vision in VISION.items():
        minus, plus = (lab(colour, vision) for colour in colours)
        assert np.linalg.norm(minus - plus) >= 20, (name, colours)


def test_the_theme_is_switched_and_kept(tab, run):
    opened(tab, run)

    def ground() -> str:
        return tab.run("getComputedStyle(document.body).backgroundColor")

    def kept(theme: str, *, dark: bool = False) -> None:
        # The browser hands what is stored from one page's process to the next a while later.
        end = time.monotonic() + 30
        while text(opened(tab, run, dark=dark), "#theme") != theme:
            assert time.monotonic() < end, f"{text(tab, '#theme')}, not {theme}"

    light = ground()
    tab.click("#theme")
    dark = ground()
    assert dark != light
    assert text(tab, "#theme") == "Theme: dark"
    kept("Theme: dark")
    assert ground() == dark
    tab.press("t")
    kept("Theme: light", dark=True)
    assert ground() == light
    tab.press("t")
    assert (ground(), text(tab, "#theme")) == (dark, "Theme: auto")


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
