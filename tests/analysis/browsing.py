"""What tests of the page of ``stepneg traces`` do in its tab, and ask of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.chromium import Tab


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
