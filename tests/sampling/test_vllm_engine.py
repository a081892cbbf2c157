"""The real vLLM, one process for the module: greedy and log-probs against transformers, seeds, weights, faults."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from stepneg.errors import EngineLostError, InputError
from stepneg.problems.arithmetic import Arithmetic
from stepneg.sampling import vllm_engine
from stepneg.sampling.engine import Completion, Decoding, Request
from stepneg.sampling.vllm_engine import (
    EngineDied,
    EngineFailed,
    VLLMEngine,
    check_policy,
    close,
    environment,
    leave_device,
    make_room,
    worker,
)
from tests.conftest import BASE

ENGINE = VLLMEngine(kv_cache_gib=0.25, timeout=300)
GREEDY = Decoding(0.0, 1.0, 60)
SAMPLED = Decoding(1.0, 1.0, 60)


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    return [tuple(tokenizer(p.question + "\n")["input_ids"]) for p in Arithmetic(split="validation", size=12).load()]


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    close(ENGINE)


def generate(requests: list[Request], decoding: Decoding, policy: Path = BASE) -> list[list[Completion]]:
    ENGINE.load(policy)
    found = dict(ENGINE.generate(requests, decoding))
    return [found[i] for i in range(len(requests))]


def log_probs(policy: Path, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logp = model(ids).logits[0, :-1].log_softmax(-1)
    return float(logp.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum())


def test_greedy_is_transformers_greedy_and_ends_in_eos(prompts):
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    ours = generate([Request(p, 1, 0) for p in prompts], GREEDY)
    same = 0
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=60)[0, len(prompt) :]
        same += completion.token_ids == tuple(theirs.tolist())
        if completion.finish_reason == "stop":
            assert completion.token_ids[-1] == model.generation_config.eos_token_id
    assert same == len(prompts)


def test_log_probs_are_transformers(prompts):
    for prompt, (completion,) in zip(prompts, generate([Request(p, 1, 7) for p in prompts], SAMPLED), strict=True):
        assert completion.logprob == pytest.approx(log_probs(BASE, prompt, completion.token_ids), abs=2e-2)


def test_samples_depend_on_seed_and_index_alone(prompts):
    at_once = generate([Request(p, 8, 100 + i) for i, p in enumerate(prompts)], SAMPLED)
    first = generate([Request(p, 3, 100 + i) for i, p in enumerate(prompts)], SAMPLED)
    rest = generate([Request(p, 5, 100 + i, start=3) for i, p in reversed(list(enumerate(prompts)))], SAMPLED)[::-1]
    ids = [[c.token_ids for c in found] for found in at_once]
    assert ids == [[c.token_ids for c in a + b] for a, b in zip(first, rest, strict=True)]
    assert any(len(set(found)) > 1 for found in ids)


def test_new_weights_are_what_is_sampled(prompts, tmp_path):
    """A policy of the same shape with other weights: log-probs follow it, and back again."""
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(other)
    for policy, wrong in ((other, BASE), (BASE, other)):
        apart = []
        for prompt, (c,) in zip(prompts, generate([Request(p, 1, 3) for p in prompts], SAMPLED, policy), strict=True):
            assert c.logprob == pytest.approx(log_probs(policy, prompt, c.token_ids), abs=2e-2)
            apart.append(abs(c.logprob - log_probs(wrong, prompt, c.token_ids)))
        assert sum(apart) / len(apart) > 0.2


@pytest.mark.slow
def test_a_killed_engine_is_replaced_and_nothing_is_missing(prompts):
    requests = [Request(p, 16, 50 + i) for i, p in enumerate(prompts)]
    undisturbed = generate(requests, SAMPLED)
    found = {}
    for index, completions in ENGINE.generate(requests, SAMPLED):
        if not found:
            os.kill(worker(ENGINE).process.pid, signal.SIGKILL)
        assert index not in found
        found[index] = completions
    assert [[c.token_ids for c in found[i]] for i in range(len(requests))] == [
        [c.token_ids for c in completions] for completions in undisturbed
    ]


@pytest.mark.slow
def test_a_stopped_engine_is_replaced_and_nothing_is_missing(prompts):
    """It hangs: alive, and silent."""
    engine = VLLMEngine(kv_cache_gib=0.25, timeout=90)
    requests = [Request(p, 16, 50 + i) for i, p in enumerate(prompts)]
    undisturbed = generate(requests, SAMPLED)
    engine.load(BASE)
    stopped, found = worker(engine).process.pid, {}
    for index, completions in engine.generate(requests, SAMPLED):
        if not found:
            os.kill(stopped, signal.SIGSTOP)
        assert index not in found
        found[index] = completions
    assert worker(engine).process.pid != stopped
    close(engine)
    assert [[c.token_ids for c in found[i]] for i in range(len(requests))] == [
        [c.token_ids for c in completions] for completions in undisturbed
    ]


@pytest.mark.slow
def test_an_engine_that_is_killed_while_it_loads_is_started_again(prompts):
    engine = VLLMEngine(kv_cache_gib=0.25, timeout=299)  # other options than the module's: a process of its own
    first = worker(engine).process
    killer = threading.Timer(3.0, first.kill)
    killer.start()
    engine.load(BASE)
    assert worker(engine).process.pid != first.pid
    close(engine)


class Mortal:
    """In the place of a worker: dies, or reports an error, as often as it is told."""

    deaths, ends = 0, 0  # while it loads, behind a request
    error: type[EngineDied] = EngineDied

    def __init__(self, devices, timeout):
        self.policy, self.killed = None, False

    def load(self, policy, options):
        self.policy = policy
        if Mortal.deaths:
            Mortal.deaths -= 1
            raise self.error("planned")

    def generate(self, requests, decoding, timeout):
        for place in range(len(requests)):
            yield place, []
            if Mortal.ends:
                Mortal.ends -= 1
                raise EngineDied("planned")

    def kill(self):
        self.killed = True


@pytest.fixture
def mortal(monkeypatch, tiny):
    monkeypatch.setattr(vllm_engine, "Worker", Mortal)
    monkeypatch.setattr(vllm_engine, "WORKERS", {})
    monkeypatch.setattr(Mortal, "error", EngineDied)
    monkeypatch.setattr(Mortal, "deaths", 0)
    monkeypatch.setattr(Mortal, "ends", 0)
    return tiny


def test_deaths_in_loading_are_mended_three_times(mortal, capsys):
    engine = VLLMEngine()
    Mortal.deaths = 3
    engine.load(mortal)
    assert capsys.readouterr().err.count("engine: planned; restarted") == 3
    Mortal.deaths = 4
    close(engine)
    with pytest.raises(EngineLostError, match="the engine died 4 times without a finished request: planned; what is"):
        engine.load(mortal)


def test_an_error_in_loading_is_told_at_once(mortal, monkeypatch):
    monkeypatch.setattr(Mortal, "error", EngineFailed)
    Mortal.deaths = 1
    with pytest.raises(InputError, match="vLLM cannot serve it: planned; what is finished is stored"):
        VLLMEngine().load(mortal)


def test_deaths_between_finished_requests_do_not_add_up(mortal):
    engine = VLLMEngine()
    engine.load(mortal)
    Mortal.ends = 6
    found = [index for index, _ in engine.generate([Request((5,), 1, 0)] * 9, GREEDY)]
    assert found == list(range(9))


def test_more_requests_than_the_engine_holds_are_the_same_samples(prompts):
    short = Decoding(1.0, 1.0, 8)
    many = generate([Request(p, 60, 100 + i) for i, p in enumerate(prompts)], short)  # 720; it holds 512
    few = generate([Request(p, 4, 100 + i) for i, p in enumerate(prompts)], short)
    assert [[c.token_ids for c in found[:4]] for found in many] == [[c.token_ids for c in found] for found in few]
    assert [len(found) for found in many] == [60] * len(prompts)


@pytest.mark.slow
def test_a_call_left_halfway_does_not_answer_the_next(prompts):
    requests = [Request(p, 2, 9) for p in prompts]
    ENGINE.load(BASE)
    for _ in ENGINE.generate(requests, SAMPLED):
        break
    again = generate([Request(prompts[0], 1, 0)], GREEDY)
    assert [c.token_ids for c in again[0]] == [c.token_ids for c in generate([Request(prompts[0], 1, 0)], GREEDY)[0]]
    assert len(again) == 1


ORPHAN = """
import sys, time
from pathlib import Path
from stepneg.sampling.vllm_engine import VLLMEngine, worker
engine = VLLMEngine(kv_cache_gib=0.25)
engine.load(Path(sys.argv[1]))
print(worker(engine).process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_an_engine_does_not_outlive_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(BASE)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        status = Path(f"/proc/{engine}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the engine still runs")


@pytest.mark.slow
def test_a_machine_without_a_compiler_samples(tmp_path, monkeypatch):
    """vLLM has torch compile a count over the vocabulary."""
    policy = tmp_path / "policy"
    shutil.copytree(BASE, policy)
    config = AutoConfig.from_pretrained(BASE)
    config.vocab_size = 10_000  # for a smaller one nothing is compiled
    AutoModelForCausalLM.from_config(config).save_pretrained(policy)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    engine = VLLMEngine(kv_cache_gib=0.25, timeout=299)
    engine.load(policy)
    ((_, found),) = engine.generate([Request((5, 6, 7), 2, 0)], SAMPLED)
    close(engine)
    assert len(found) == 2


@pytest.mark.parametrize(("missing", "message"), [("config.json", "no config.json"), ("model.safetensors", "pickled")])
def test_what_is_not_a_policy_is_refused(tmp_path, tiny, missing, message):
    folder = tmp_path / "policy"
    shutil.copytree(tiny, folder)
    (folder / missing).unlink()
    with pytest.raises(InputError, match=message):
        check_policy(folder)


def test_engines_end_where_training_needs_their_device(monkeypatch):
    ended = []
    process = SimpleNamespace(kill=lambda: ended.append(1))
    monkeypatch.setattr(vllm_engine, "WORKERS", {VLLMEngine(): process})
    leave_device(torch.device("cpu"))
    assert vllm_engine.WORKERS
    leave_device(torch.device("cuda"))
    assert ended == [1]
    assert not vllm_engine.WORKERS
    own = VLLMEngine(devices="7")
    vllm_engine.WORKERS[own] = process
    leave_device(torch.device("cuda"))
    assert list(vllm_engine.WORKERS) == [own]


def test_torch_gives_memory_back_where_there_is_a_gpu(monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    make_room(torch.device("cpu"))
    assert not given
    make_room(torch.device("cuda"))
    assert given == [1]


def test_an_engine_sees_the_devices_that_are_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,7")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert environment(None)["CUDA_VISIBLE_DEVICES"] == "0,1,7"
    assert environment("7")["CUDA_VISIBLE_DEVICES"] == "7"
    assert "LOCAL_RANK" not in environment("7")
