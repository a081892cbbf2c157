import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from stepneg.errors import InputError
from stepneg.sampling.engine import Completion, Decoding
from stepneg.sampling.sampler import Draws, request_seed, sample
from stepneg.sampling.store import (
    Sampler,
    SampleStore,
    Writer,
    checksum,
    contents,
    fingerprint_policy,
    lacks,
    line,
    prompt_key,
    read_line,
    rows_of,
)
from tests.sampling.fake import FakeEngine

PROMPTS = [(5, 6, 7), (8,), (9, 10)]
DECODING = Decoding(1.0, 1.0, 20)


def draw(store: Path, policy: Path, n: int, engine: FakeEngine | None = None, prompts=PROMPTS, seed: int = 0):
    return sample(engine or FakeEngine(), SampleStore(store), policy, prompts, n, DECODING, seed)


def test_asking_for_more_draws_the_difference(tmp_path, tiny):
    engine = FakeEngine()
    draw(tmp_path, tiny, 40, engine)
    assert engine.drawn == 3 * 40
    more = draw(tmp_path, tiny, 64, engine)
    assert engine.drawn == 3 * 64
    assert more.drawn == 3 * 24
    at_once = draw(tmp_path / "other", tiny, 64)
    assert more.completions == at_once.completions


def test_nothing_missing_starts_no_engine(tmp_path, tiny):
    draw(tmp_path, tiny, 4)
    engine = FakeEngine()
    again = draw(tmp_path, tiny, 3, engine)
    assert (engine.loads, engine.drawn, again.drawn) == (0, 0, 0)
    assert all(len(found) == 3 for found in again.completions.values())


def test_results_do_not_depend_on_order_or_company(tmp_path, tiny):
    together = draw(tmp_path / "a", tiny, 5).completions
    for prompt in reversed(PROMPTS):
        assert draw(tmp_path / "b", tiny, 5, prompts=[prompt, prompt]).completions == {prompt: together[prompt]}
    assert draw(tmp_path / "a", tiny, 5, seed=1).completions != together


def test_what_was_drawn_before_a_crash_is_kept(tmp_path, tiny):
    engine = FakeEngine(lives=2)
    with pytest.raises(RuntimeError, match="out of lives"):
        draw(tmp_path, tiny, 6, engine)
    after = FakeEngine()
    result = draw(tmp_path, tiny, 6, after)
    assert after.drawn == 6  # one of three prompts was missing
    assert result.completions == draw(tmp_path / "undisturbed", tiny, 6).completions


def test_other_weights_or_decoding_are_other_samples(tmp_path, tiny):
    store = SampleStore(tmp_path)
    first = store.sampler(tiny, DECODING, 0).folder
    assert store.sampler(tiny, Decoding(0.5, 1.0, 20), 0).folder != first
    assert store.sampler(tiny, DECODING, 1).folder != first
    assert json.loads((first / "meta.json").read_text())["policy"] == fingerprint_policy(tiny)


def filled(tmp_path: Path) -> tuple[Path, str]:
    key = prompt_key((1, 2))
    with Writer(tmp_path) as writer:
        writer.add(key, 0, [Completion((3, 4), -1.5, "stop"), Completion((5,), -0.5, "length")])
        writer.add(key, 2, [Completion((6,), -2.0, "stop")])
    return next(tmp_path.glob("*.jsonl")), key


def test_a_shard_opens_in_pandas_and_datasets(tmp_path):
    shard, key = filled(tmp_path)
    frame = pd.read_json(shard, lines=True)
    assert frame["prompt"].tolist() == [key] * 3
    assert frame["token_ids"].tolist() == [[3, 4], [5], [6]]
    rows = load_dataset("json", data_files=str(shard), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["index"][:] == [0, 1, 2]


@given(cut=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_is_never_trusted(tmp_path_factory, cut):
    shard, _ = filled(tmp_path_factory.mktemp("torn"))
    data = shard.read_bytes()
    whole = list(rows_of(shard))
    shard.write_bytes(data[: max(0, len(data) - cut)])
    kept = list(rows_of(shard))
    assert kept == whole[: len(kept)]
    assert len(kept) == data[: max(0, len(data) - cut)].count(b"\n")


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_is_never_trusted(tmp_path_factory, place, bit):
    shard, _ = filled(tmp_path_factory.mktemp("flip"))
    whole = list(rows_of(shard))
    data = bytearray(shard.read_bytes())
    data[place % len(data)] ^= 1 << bit
    shard.write_bytes(bytes(data))
    assert all(row in whole for row in rows_of(shard))


WRITE = """
import sys, time
from pathlib import Path
from stepneg.sampling.engine import Completion
from stepneg.sampling.store import Writer, prompt_key
with Writer(Path(sys.argv[1])) as writer:
    for i in range(10**6):
        writer.add(prompt_key((i,)), 0, [Completion((i, j), -1.0, "stop") for j in range(20)])
        print(i, flush=True)
"""


def test_kill_9_loses_no_sample_that_was_added(tmp_path):
    for wait in (0.0, 0.02, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, tmp_path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        said = [0, *map(int, writer.stdout.read().split())][-1]
        writer.wait()
        shard = max(tmp_path.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
        found = {(row["prompt"], row["index"]) for row in rows_of(shard)}
        assert found >= {(prompt_key((i,)), j) for i in range(said + 1) for j in range(20)}


def test_two_writers_at_once_count_each_sample_once(tmp_path, tiny):
    store = SampleStore(tmp_path)
    sampler = store.sampler(tiny, DECODING, 0)
    with Writer(sampler.folder) as one, Writer(sampler.folder) as two:
        one.add("k", 0, [Completion((3,), -1.0, "stop")])
        two.add("k", 0, [Completion((3,), -1.0, "stop"), Completion((4,), -1.0, "stop")])
    assert {i: c.token_ids for i, c in sampler.read({"k"})["k"].items()} == {0: (3,), 1: (4,)}


def test_rows_come_one_by_one_each_once(tmp_path):
    folder = SampleStore(tmp_path).root
    one, other = prompt_key((1,)), prompt_key((2,))
    with Writer(folder) as writer:
        writer.add(one, 0, [Completion((i,), -0.5, "stop") for i in range(20)])
        writer.add(other, 3, [Completion((7, 8), -1e-7, "length")])
    with Writer(folder) as writer:
        writer.add(one, 5, [Completion((i + 5,), -0.5, "stop") for i in range(20)])
    rows = list(Sampler(folder).rows())
    assert sorted((prompt, index) for prompt, index, _ in rows) == sorted([*((one, i) for i in range(25)), (other, 3)])
    assert all(completion.token_ids == (index,) for prompt, index, completion in rows if prompt == one)
    assert list(Sampler(folder).rows({other})) == [(other, 3, Completion((7, 8), -1e-7, "length"))]
    assert list(Sampler(folder).rows(set())) == []


@given(
    ids=st.lists(st.integers(0, 10**6)),
    logprob=st.floats(max_value=0) | st.just(float("-inf")) | st.just(float("nan")),
    reason=st.sampled_from(["stop", "length", 'a "reason"\\', "\n"]),
    index=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_a_line_is_a_row_with_its_checksum(ids, logprob, reason, index):
    written = line(prompt_key((1,)), index, Completion(tuple(ids), logprob, reason)).encode()
    row = json.loads(written)
    assert row["crc"] == checksum(row)
    assert json.dumps(row) + "\n" == written.decode()
    assert repr(read_line(written)) == repr(row)
    assert (row["token_ids"], row["index"], row["finish_reason"]) == (ids, index, reason)
    assert read_line(written[:-1]) is None
    assert read_line(written.replace(b'"index": ', b'"index": 1')) is None


def test_samples_that_are_kept_share_their_token_ids(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add("k", 0, [Completion((70_000, 80_000), -1.0, "stop"), Completion((80_000, 70_000), -1.0, "stop")])
    found = Sampler(tmp_path).read({"k"})["k"]
    assert [found[0].token_ids, found[1].token_ids] == [(70_000, 80_000), (80_000, 70_000)]
    assert found[0].token_ids[0] is found[1].token_ids[1]


def test_a_closed_shard_without_the_prompts_is_passed_over(tmp_path):
    shard, key = filled(tmp_path)
    said = json.loads(contents(shard).read_text())
    assert said == {"bytes": shard.stat().st_size, "prompts": [key], "crc": checksum(said)}
    assert (lacks(shard, {"other"}), lacks(shard, {"other", key}), lacks(shard, set())) == (True, False, True)
    shard.write_bytes(shard.read_bytes().replace(key.encode(), b"k" * len(key)))  # as long: only the list knows
    assert list(Sampler(tmp_path).rows({"k" * len(key)})) == []


@pytest.mark.parametrize("list_", [None, "", "{", "[]", "{}", '{"bytes": "x", "prompts": []}', '{"bytes": 1}'])
def test_a_shard_whose_list_is_missing_or_damaged_is_read(tmp_path, list_):
    shard, key = filled(tmp_path)
    contents(shard).unlink() if list_ is None else contents(shard).write_text(list_)
    assert not lacks(shard, {"other"})
    assert len(list(Sampler(tmp_path).rows({key}))) == 3


def test_a_shard_that_is_longer_than_its_list_says_is_read(tmp_path):
    shard, _ = filled(tmp_path)
    late = prompt_key((9,))
    with shard.open("a") as file:
        file.write(line(late, 0, Completion((1,), -1.0, "stop")))
    assert list(Sampler(tmp_path).rows({late})) == [(late, 0, Completion((1,), -1.0, "stop"))]


def test_a_writer_that_is_open_or_was_killed_has_no_list(tmp_path):
    writer = Writer(tmp_path)
    writer.add(prompt_key((1,)), 0, [Completion((3,), -1.0, "stop")])
    assert [file.suffix for file in tmp_path.iterdir()] == [".jsonl"]
    assert len(list(Sampler(tmp_path).rows({prompt_key((1,))}))) == 1
    writer.__exit__(None, None, None)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".jsonl", ".prompts"]


def test_json_that_was_written_otherwise_is_read(tmp_path):
    shard, _ = filled(tmp_path)
    rows = list(rows_of(shard))
    shard.write_text("".join(json.dumps(dict(sorted(row.items())), separators=(",", ":")) + "\n" for row in rows))
    assert list(rows_of(shard)) == rows
    assert list(rows_of(shard, {rows[0]["prompt"]})) == rows
    assert list(rows_of(shard, {"other"})) == []
    shard.write_text("[]\n1\nnull\n{}\n\n" + json.dumps(rows[0]) + "\n")
    assert list(rows_of(shard)) == rows[:1]


def test_prompts_are_handed_on_while_the_engine_draws(tmp_path, tiny):
    draw(tmp_path, tiny, 2, prompts=PROMPTS[:1])
    engine = FakeEngine()
    draws = Draws(engine, SampleStore(tmp_path), tiny, DECODING, 0)
    drawn = {}
    for prompt, completions in draws.finished(dict.fromkeys(PROMPTS, 2)):
        drawn[prompt] = engine.drawn
        assert completions == draw(tmp_path / "other", tiny, 2).completions[prompt]
    assert drawn == {PROMPTS[2]: 2, PROMPTS[1]: 4, PROMPTS[0]: 4}  # the fake engine ends with the first request
    assert draws.drawn == 4


def test_a_prompt_without_room_is_refused(tmp_path, tiny):
    with pytest.raises(InputError, match=r"a prompt of 256 tokens .* no room in the context of 256"):
        draw(tmp_path, tiny, 1, prompts=[tuple([5] * 256)])


def test_seeds_differ_between_prompts_and_stay_put():
    seeds = [request_seed(0, prompt_key(prompt)) for prompt in PROMPTS]
    assert len(set(seeds)) == 3
    assert seeds == [request_seed(0, prompt_key(prompt)) for prompt in PROMPTS]
    assert request_seed(1, prompt_key(PROMPTS[0])) != seeds[0]


def prepared(shard: Path, **changes: object) -> None:
    """A line that somebody made: whatever it says, its checksum fits."""
    row = {"prompt": "k", "index": 0, "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"} | changes
    with shard.open("a") as out:
        out.write(json.dumps(row | {"crc": checksum(row)}) + "\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 10**12}, {"index": -1}, {"index": True}, {"index": "0"}, {"index": [0]}, {"token_ids": "ab"},
        {"token_ids": [-1]}, {"token_ids": [2**40]}, {"token_ids": [1.5]}, {"token_ids": [[1]]}, {"token_ids": {}},
        {"logprob": "x"}, {"logprob": [0.5]}, {"finish_reason": 5}, {"finish_reason": ["stop"]}, {"prompt": ["k"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_prepared_line_that_is_no_sample_is_passed_over(tmp_path, changes):
    prepared(tmp_path / "a.jsonl", **changes)
    prepared(tmp_path / "a.jsonl", index=3)
    assert [(prompt, index) for prompt, index, _ in Sampler(tmp_path).rows()] == [("k", 3)]
    assert set(Sampler(tmp_path).read({"k"})["k"]) == {3}


def test_what_is_no_shard_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("stepneg.reading.LONGEST_LINE", 1 << 16)
    prepared(tmp_path / "z.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (tmp_path / "long.jsonl").write_text("1" * (1 << 20))
    contents(tmp_path / "z.jsonl").write_text("[" * 100_000)
    assert [(prompt, index) for prompt, index, _ in Sampler(tmp_path).rows({"k"})] == [("k", 0)]


def test_a_stored_token_beyond_the_vocabulary_is_named(tmp_path, tiny):
    draw(tmp_path, tiny, 2)
    sampler = SampleStore(tmp_path).sampler(tiny, DECODING, 0)
    prepared(sampler.folder / "made.jsonl", prompt=prompt_key(PROMPTS[0]), index=2, token_ids=[5, 10**6])
    with pytest.raises(InputError) as caught:
        draw(tmp_path, tiny, 3)
    assert f"{sampler.folder}: a stored sample has token 1000000, the policy {tiny} has " in str(caught.value)
    assert "remove its shard" in str(caught.value)
