"""Solutions that were sampled elsewhere, into the sample store.

A fit finds them where it would find its own samples: under its policy, decoding and seed. Token ids are the truth; a
text without them is encoded once, on import.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepneg.data.rollouts import Rollouts
from stepneg.data.rows import decode, encode_prompt, encode_response, encode_text
from stepneg.errors import InputError
from stepneg.policy_folder import context_length, load_tokenizer
from stepneg.problems import Problem
from stepneg.problems.records import Record, any_records
from stepneg.reading import LARGEST_NUMBER
from stepneg.resolved import resolver
from stepneg.sampling.engine import Completion, Ids
from stepneg.sampling.store import SampleStore, Writer, prompt_key


def import_solutions(source: str, argv: Sequence[str], split: str = "train") -> str:
    """Put solutions that were sampled elsewhere into the store of a fit, as samples of its policy.

    The fit then draws only what is missing. A row is a solution: ``response_ids`` (token ids of the fit's policy) or
    ``response`` (text), and which problem it answers: ``problem_id``, ``question`` or ``prompt`` (text or messages).
    Optional are ``logprob`` and ``finish_reason`` (``length`` for a solution that was cut off, else ``stop``). All rows
    are checked before the first is stored, and a second import of the same file adds nothing.

    Args:
        source: JSONL, Parquet, a folder of datasets, or hub:owner/name.
        argv: the options of the fit.
        split: of a folder or a dataset on the hub.

    Returns:
        A line that says what was imported, and what is left out or was encoded to another text.

    Raises:
        InputError: a row is malformed or too long, none belongs to a problem, or the store holds other samples there.
    """
    given = resolver(["", *argv]).resolve(["", *argv])
    data: Any = given.data
    rollouts = getattr(data, "rollouts", None)
    if not isinstance(rollouts, Rollouts):
        raise InputError(f"import: a fit on {type(data).__name__} samples nothing, so it reads no samples")
    reader = Reader(data.policy, data.load_problems(), data.template, rollouts.max_tokens)
    counts, keys = Counter[str](), set[str]()
    for record in any_records(source, split):
        counts["rows"] += 1
        if (found := reader.read(record, counts)) is not None:
            keys.add(prompt_key(found[0]))
    if not keys:
        raise InputError(
            f"{source}: none of its {counts['rows']} rows answers a problem of the fit; name it by problem_id,"
            " question or prompt"
        )
    sampler = SampleStore(rollouts.store).sampler(data.policy, rollouts.decoding, rollouts.seed)
    stored = sampler.read(keys)
    check_free(source, split, reader, stored)
    number = 0
    with Writer(sampler.folder) as writer:
        for key, index, done in reader.numbered(source, split):
            if index not in stored.get(key, {}):
                writer.add(key, index, [done])
                number += 1
    said = [f"{number} solutions of {len(keys)} problems imported to {sampler.folder}"]
    if there := counts["rows"] - counts["other"] - number:
        said.append(f"{there} were there already")
    if counts["other"]:
        said.append(f"{counts['other']} of other problems left out")
    if counts["changed"]:
        said.append(f"warning: {counts['changed']} whose token ids decode to another text than theirs")
    return "; ".join(said)


def check_free(source: str, split: str, reader: "Reader", stored: Mapping[str, Mapping[int, Completion]]) -> None:
    """Refuse to put a solution where the store holds another sample.

    Raises:
        InputError: the first such place.
    """
    for key, index, done in reader.numbered(source, split):
        there = stored.get(key, {}).get(index)
        if there is not None and there.token_ids != done.token_ids:
            raise InputError(
                f"{source}: the store holds another sample {index} of its prompt already, and nothing was imported;"
                " import under another data.rollouts.seed or data.rollouts.store"
            )


class Reader:
    """Makes samples of rows.

    Args:
        policy: HF folder.
        problems: of the fit.
        template: the prompt.
        max_tokens: longest solution.
    """

    def __init__(self, policy: Path, problems: Sequence[Problem], template: str, max_tokens: int) -> None:
        self.tokenizer = load_tokenizer(policy, template)
        self.template, self.max_tokens, self.context = template, max_tokens, context_length(policy)
        self.prompts: dict[tuple[str, str], Ids] = {}
        for problem in problems:
            ids = encode_prompt(self.tokenizer, template, problem.question)
            text = template.replace("{question}", problem.question)
            for name in (("problem_id", problem.id), ("question", problem.question), ("prompt", text)):
                self.prompts[name] = ids
        self.vocabulary = len(self.tokenizer)

    def read(self, record: Record, counts: Counter[str]) -> tuple[Ids, Completion] | None:
        """Prompt and sample of a row; None if it answers no problem.

        Raises:
            InputError: the row is malformed or too long.
        """
        prompt = self.prompt(record)
        if prompt is None:
            counts["other"] += 1
            return None
        reason = record.values.get("finish_reason")
        if reason not in (None, "stop", "length"):
            raise InputError(f"{record.where}: finish_reason is {reason!r}; write stop or length")
        text = record.text("response", empty=True) if record.values.get("response") is not None else None
        if record.values.get("response_ids") is not None:
            ids = record.token_ids("response_ids", self.vocabulary)
            if reason is None:  # which is what a table has where nothing is said
                reason = "stop" if ids[-1] == self.tokenizer.eos_token_id else "length"
        elif text is None:
            raise InputError(f"{record.where}: holds neither response nor response_ids; add one")
        elif reason == "length":
            ids = tuple(encode_text(self.tokenizer, text))
        else:
            ids = encode_response(self.tokenizer, text)
        counts["changed"] += text is not None and decode(self.tokenizer, ids) != text
        if not ids or len(ids) > self.max_tokens or len(prompt) + len(ids) > self.context:
            raise InputError(
                f"{record.where}: a response of {len(ids)} tokens behind a prompt of {len(prompt)} is no sample of at"
                f" most {self.max_tokens} tokens (data.rollouts.max_tokens) in a context of {self.context}; leave it"
                " out"
            )
        logp = record.values.get("logprob")
        if logp is not None and (isinstance(logp, bool) or not isinstance(logp, int | float)):
            raise InputError(
                f"{record.where}: logprob is {type(logp).__name__}; write a number of nats, or leave it out"
            )
        if logp is not None and not abs(logp) <= LARGEST_NUMBER:
            raise InputError(f"{record.where}: logprob is not finite; write a number of nats, or leave it out")
        return prompt, Completion(ids, None if logp is None else float(logp), str(reason or "stop"))

    def prompt(self, record: Record) -> Ids | None:
        """The prompt ids of the problem that a row answers."""
        for key in ("problem_id", "question", "prompt"):
            said = record.values.get(key)
            if isinstance(said, list) and said and isinstance(said[-1], dict):
                said = said[-1].get("content")  # messages
            if isinstance(said, str):
                found = self.prompts.get((key, said)) or self.prompts.get(("question", said))
                if found is not None:
                    return found
        return None

    def numbered(self, source: str, split: str) -> Iterator[tuple[str, int, Completion]]:
        """Key, number and sample of each row that answers a problem, as the store names them."""
        counts, following = Counter[str](), Counter[str]()
        for record in any_records(source, split):
            if (found := self.read(record, counts)) is not None:
                key = prompt_key(found[0])
                yield key, following[key], found[1]
                following[key] += 1
