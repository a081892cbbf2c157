"""The page of ``stepneg traces`` as it looks in a real browser: on a phone, in the dark, to any colour vision."""

import time

import numpy as np
import pytest

from stepneg.analysis.solutions import Browsed, Settings, Solution, problem_row
from stepneg.analysis.traces import contents, page
from tests.analysis.browsing import (
    every,
    number_of,
    opened,
    sideways,
    text,
)

SPREAD = (("light", 1280, 900, False), ("dark", 1280, 900, True), ("phone", 390, 844, False))


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
