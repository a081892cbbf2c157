"""The child process: bounded, restarted, shared by threads, never inherited, never left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stepneg.grading import grade, symbolic
from stepneg.grading.symbolic import POOL, Worker, symbolically_equal
from stepneg.grading.verifier import EVERY

HUGE = 1_000_000
BOUNDED = {
    "open boxes": r"\boxed{" * (HUGE // 7),
    "bare boxes": r"\boxed 5 " * (HUGE // 9),
    "box and blanks": r"\boxed" + " " * HUGE,
    "backslashes": "\\" * HUGE,
    "braces": "{" * HUGE + "}" * HUGE,
    "hashes": "#" * HUGE,
    "blanks": "answer is" + " " * HUGE,
    "line breaks": "\n" * HUGE,
    "digits": "#### " + "1" * HUGE,
    "digits and commas": "#### " + "1," * HUGE,
    "signs": "-" * HUGE,
    "labels": "A:\n" * (HUGE // 3),
    "phrases": "answer is " * (HUGE // 10),
    "10,000 digits": r"\boxed{" + "7" * 10_000 + "}",
    "deep braces": r"\boxed{" + "{" * 5000 + "5" + "}" * 5000 + "}",
    "deep lists": r"\boxed{" + "(1," * 300 + "2" + ")" * 300 + "}",
    "long list": r"\boxed{" + "1," * 450 + "1}",
    "blanks in a box": r"\boxed{" + " " * 990 + "}",
    "words": r"\boxed{" + r"\text{ and }" * 80 + "}",
    "exponent": "#### 1e999999999",
    "division by zero": r"\boxed{\frac{1}{0}}",
    "NUL": "\\boxed{\0}",
    "half a surrogate pair": "\\boxed{\ud800}",
    "superscript digit": r"\boxed{²}",
}


def current() -> Worker:
    """The worker that the next question of a single thread goes to."""
    return POOL.idle.queue[-1]


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_without_the_child(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("stepneg.grading.compare.symbolically_equal", lambda *_: None)
    start = time.process_time()
    for form in ("math", "gsm8k", "number"):
        assert not grade(BOUNDED[name], "81, 256", form, EVERY[form]).correct
    assert time.process_time() - start < 5


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10^{999999999}"])
def test_a_hang_costs_one_unparsable_verdict(answer: str) -> None:
    start = time.monotonic()
    verdict = grade(rf"\boxed{{{answer}}}", r"\frac{\pi}{2}", "math")
    assert (verdict.correct, verdict.rule) == (False, "unparsable")
    assert time.monotonic() - start < symbolic.REPLY_SECONDS
    assert grade(rf"\boxed{{{answer}}}", r"\frac{\pi}{2}", "math") is not None  # from the memo, no second hang
    assert symbolically_equal("2x", "x+x") is True


def test_a_lost_child_is_replaced() -> None:
    assert symbolically_equal("2x", "x+x") is True
    assert current().child is not None
    os.kill(current().child.pid, signal.SIGKILL)
    current().child.wait()
    assert symbolically_equal("2y", "y+y") is True


def test_silence_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert symbolically_equal("2x", "x+x") is True
    assert current().child is not None
    stopped = current().child.pid
    os.kill(stopped, signal.SIGSTOP)
    monkeypatch.setattr(symbolic, "REPLY_SECONDS", 0.3)
    assert symbolically_equal("2x", "x+x") is None
    monkeypatch.undo()
    assert symbolically_equal("2x", "x+x") is True
    assert current().child.pid != stopped


def test_an_interrupted_question_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    assert symbolically_equal("2x", "x+x") is True
    monkeypatch.setattr(symbolic, "read_word", interrupt)
    with pytest.raises(KeyboardInterrupt):
        symbolically_equal("2x", "x+x")
    monkeypatch.undo()
    assert symbolically_equal("2x", "3x") is False


def test_a_child_that_cannot_start_is_an_error_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    POOL.stop()
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="did not start"):
        symbolically_equal("2x", "x+x")


def test_threads() -> None:
    pairs = [(f"{i}x+{i}x", f"{i + i % 2}x+{i}x") for i in range(1, 25)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: symbolically_equal(*pair), pairs))
    assert verdicts == [i % 2 == 0 for i in range(1, 25)]


def ask_in_fork(child_pid: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    equal = symbolically_equal("2x", "x+x")
    answers.put((equal, current().child is not None and current().child.pid != child_pid))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_daemon_has_its_own_child() -> None:
    """As in a data loader's worker: forked, daemonic, while the parent's child lives."""
    assert symbolically_equal("2x", "x+x") is True
    assert current().child is not None
    pid = current().child.pid
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    process = fork.Process(target=ask_in_fork, args=(pid, answers), daemon=True)
    process.start()
    assert answers.get(timeout=60) == (True, True)
    process.join()
    assert symbolically_equal("3x", "x+2x") is True
    assert current().child.pid == pid


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_no_child_for_numbers_and_no_heavy_imports() -> None:
    code = (
        "import sys; from stepneg.grading import grade, symbolic;"
        "grade('#### 1/3', '18', 'gsm8k'); grade('x 7', 'abc', 'number'); grade(r'\\boxed{0.5}', '1/3', 'math');"
        "print(symbolic.POOL.workers[0].child, 'torch' in sys.modules, 'sympy' in sys.modules)"
    )
    assert run(code).stdout.split() == ["None", "False", "False"]


def test_the_child_ends_with_its_parent() -> None:
    code = (
        "import os; from stepneg.grading.symbolic import POOL, symbolically_equal;"
        "symbolically_equal('2x', 'x+x'); print(POOL.workers[0].child.pid, flush=True); {end}"
    )
    for end in ("pass", "os._exit(1)"):  # in order, and without clean-up
        child = int(run(code.format(end=end)).stdout)
        deadline = time.monotonic() + 10
        while is_running(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(child)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
