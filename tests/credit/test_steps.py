"""Step boundaries against real tokenizers: byte-level BPE that merges over newlines, Unigram, and byte fallback."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stepneg.credit.steps import FORMULA, join_shortest, line_ends, math_ends, merge_steps, split_steps, token_texts

SOLUTION = "Mia starts with 12 coins.\n\nTom finds 5: 12 + 5 = 17.\n\nZoe sells 6: 17 - 6 = 11.\n\n#### 11"
NAMES = "Ann Ben Carl Dora Eva Finn Gus Hope Ivy Jon Kim Leo Mia Ned Olaf Pam Quinn Ray Sue Tom Una Vic Xia Zoe".split()
CORPUS = [
    text
    for name in NAMES
    for text in (
        f"{name} starts with 12 coins.\n\n{name[::-1]} finds 5: 12 + 5 = 17.\n\n{name} eats 6: 17 - 6 = 11.\n\n#### 11",
        f"{name} pays 3 € for tea.\n  {name} pays 4 € more.\nThe answer is 7 €.\n#### 7",
        f"{name} has x² − 4 = 0 …\n\n\n \nso x = ±2.\n\n{name[::-1]} has 2.",
    )
]


def trained_byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=330, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def trained_unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<eos>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    return tokenizer


def trained_byte_fallback() -> Tokenizer:
    """As Llama 2: a newline, or a character that is not in the vocabulary, becomes byte tokens such as <0x0A>."""
    plain = Tokenizer(models.BPE())
    plain.train_from_iterator(
        [t.replace("\n", " ").replace("€", "").replace(" ", "▁") for t in CORPUS],
        trainers.BpeTrainer(vocab_size=200, show_progress=False),
    )
    model = json.loads(plain.to_str())["model"]
    tokens = ["<eos>", *(f"<0x{b:02X}>" for b in range(256)), *model["vocab"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m) for m in model["merges"]], byte_fallback=True))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TRAINERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": trained_byte_level,
    "unigram": trained_unigram,
    "byte-fallback": trained_byte_fallback,
}
each_tokenizer = pytest.mark.parametrize("kind", TRAINERS)


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return TRAINERS[kind]()


def decode_of(kind: str) -> Callable[[Sequence[int]], str]:
    return lambda ids: tokenizer_of(kind).decode(list(ids), skip_special_tokens=True)


def steps_of(kind: str, ids: Sequence[int], ends: Sequence[int]) -> list[str]:
    """The texts of the steps, by what decoding gains from one prefix to the next."""
    texts = [decode_of(kind)(ids[:end]) for end in [0, *ends]]
    return [after[len(before) :] for before, after in pairwise(texts)]


def expected_ends(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The line rule in terms of the tokenizer's own character offsets, written down a second time."""
    last = len(spans)
    found = set()
    at = 0
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1]):
        newline = at + len(line)
        at = newline + 1
        if not line.strip():
            continue
        boundary = next(i for i, (start, end) in enumerate(spans) if start <= newline < end) + 1
        follower = number + 1
        blank_end = at
        while follower < len(lines) - 1 and not lines[follower].strip():
            blank_end += len(lines[follower]) + 1
            follower += 1
        closing = [i + 1 for i, (start, end) in enumerate(spans) if end == blank_end and start < blank_end]
        found.add(closing[0] if closing else boundary)
    if lines[-1].strip():
        found.add(next(i + 1 for i, (_, end) in enumerate(spans) if end >= len(text.rstrip())))
    return [*sorted(found)[:-1], last]


texts = st.lists(
    st.sampled_from(
        [".\n\n", "\n", "\n\n", " ", " \n", "Mia finds 5", "€", "² −", "…", "#### 11", "12 + 5 = 17", ".", "x", "±2.\n"]
    ),
    min_size=1,
    max_size=25,
).map("".join)


def test_the_tokenizers_are_what_they_claim() -> None:
    byte_level = tokenizer_of("byte-level").get_vocab()
    assert any(len(token) > 2 and token.endswith("ĊĊ") for token in byte_level)  # ".\n\n" and more in one token
    fallback = tokenizer_of("byte-fallback")
    assert fallback.encode("a\nb").tokens.count("<0x0A>") == 1
    assert fallback.encode("€").tokens[-3:] == ["<0xE2>", "<0x82>", "<0xAC>"]


@each_tokenizer
def test_a_worked_solution(kind: str) -> None:
    ids = tokenizer_of(kind).encode(SOLUTION).ids
    ends = split_steps(ids, decode_of(kind))
    assert [step.strip() for step in steps_of(kind, ids, ends)] == SOLUTION.split("\n\n")
    assert ends[-1] == len(ids)


@each_tokenizer
@pytest.mark.parametrize("tail", ["", "\n", "\n\n"])
def test_eos_belongs_to_the_last_step(kind: str, tail: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = [*tokenizer.encode("x = 5\n#### 11" + tail).ids, tokenizer.token_to_id("<eos>")]
    ends = split_steps(ids, decode_of(kind))
    assert len(ends) == 2
    assert ends[-1] == len(ids)


@each_tokenizer
@settings(deadline=None, max_examples=150)
@given(text=texts)
@example(text="x.\n\n \n€ x\n \n")
def test_boundaries_are_where_the_newlines_are(kind: str, text: str) -> None:
    encoding = tokenizer_of(kind).encode(text)
    ends = split_steps(encoding.ids, decode_of(kind))
    if text.strip():
        assert ends == expected_ends(text, encoding.offsets)
    elif encoding.ids:
        assert ends == [len(encoding.ids)]


@each_tokenizer
@pytest.mark.parametrize("rule", ["line", "math"])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_steps_put_together_are_the_response(kind: str, rule: str, data: st.DataObject) -> None:
    size = tokenizer_of(kind).get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=60))
    ends = split_steps(ids, decode_of(kind), rule)  # type: ignore[arg-type]
    assert [token for start, end in pairwise([0, *ends]) for token in ids[start:end]] == ids
    assert all(start < end for start, end in pairwise([0, *ends]))


def bytes_of(kind: str) -> dict[int, bytes]:
    """What each token of the byte-level vocabulary stands for: printable bytes are themselves, the rest from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in printable}
    letters |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)}
    vocab = tokenizer_of(kind).get_vocab()
    return {i: b"" if token == "<eos>" else bytes(letters[c] for c in token) for token, i in vocab.items()}


def one_a_byte(content: bytes) -> str:
    """One character a byte, blank where the decoded text is blank."""
    letters = content.decode(errors="surrogateescape")
    widths = [len(c.encode(errors="surrogateescape")) for c in letters]
    return "".join(c if n == 1 else (" " if c.isspace() else "x") * n for c, n in zip(letters, widths, strict=True))


def spans_of(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    ends = [0, *accumulate(map(len, pieces))]
    return list(pairwise(ends))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_broken_characters_lose_no_newline(data: st.DataObject) -> None:
    """Any ids at all, half characters included: the same steps as in the bytes that the tokens stand for."""
    of_token = bytes_of("byte-level")
    newlines = sorted(i for i, content in of_token.items() if b"\n" in content)
    high = sorted(i for i, content in of_token.items() if any(b >= 128 for b in content))
    one = st.one_of(st.sampled_from(newlines), st.sampled_from(high), st.sampled_from(sorted(of_token)))
    ids = data.draw(st.lists(one, min_size=1, max_size=40))
    pieces = [of_token[i] for i in ids]
    content = one_a_byte(b"".join(pieces))
    ends = split_steps(ids, decode_of("byte-level"))
    assert ends == (expected_ends(content, spans_of(pieces)) if content.strip() else [len(ids)])


def test_a_token_that_holds_a_newline_and_half_a_character() -> None:
    pieces = {0: b"a", 1: b"\n\xe2", 2: b"\x82", 3: b"\xac\n", 4: b"b"}
    ids = [0, 1, 2, 3, 4]
    decode = lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace")  # noqa: E731
    assert token_texts(ids, decode) == ["a", "\n", "", "€\n", "b"]
    assert split_steps(ids, decode) == [2, 4, 5]


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [(["x", "\nso ", " "], [3]), (["x", "\nso", "\u00a0", ""], [4]), (["x", "\ns", "o", " "], [2, 4])],
)
def test_trailing_blanks_are_no_step(pieces: list[str], ends: list[int]) -> None:
    """Here one token may hold the end of a line and the whole text of the next, the last one."""
    assert split_steps(range(len(pieces)), lambda ids: "".join(pieces[i] for i in ids)) == ends


def test_a_blank_line_does_not_take_the_next_line_along() -> None:
    pieces = ["a", ".\n", "\nb", "\n", " \n", "  c"]
    decode = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    assert split_steps(range(6), decode) == [2, 5, 6]


@pytest.mark.parametrize(
    ("text", "ends"),
    [("", []), ("\n", [1]), ("a", [1]), ("a\n", [2]), ("\n\na", [3]), ("a\nb", [2, 3]), ("a\n \n\nb\n", [5, 7])],
)
def test_odd_responses(text: str, ends: list[int]) -> None:
    assert split_steps(range(len(text)), lambda ids: "".join(text[i] for i in ids)) == ends


@each_tokenizer
def test_the_work_is_linear(kind: str) -> None:
    ids = (tokenizer_of(kind).encode("\n".join(CORPUS)).ids * 3)[:4000]
    sizes: list[int] = []

    def counted(window: Sequence[int]) -> str:
        sizes.append(len(window))
        return decode_of(kind)(window)

    split_steps(ids, counted)
    assert len(sizes) <= 2 * len(ids)
    assert max(sizes) <= 8


FORMULAS = [
    "so $a\nb$ holds for all\nand more follows from it\n",
    "we see \\[x\n= 1\\] from all\nthat was said before\n",
    "\\begin{align*}a &= b. Then\\\\\n[2pt] c &= d\\end{align*}\nand more follows from it\n",
    "it costs \\$5 to get in\nand \\$6 to get out again\n",
    "$$a. B\nc$$ is the formula here\nand that is all of it\n",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_step_ends_inside_a_formula(text: str) -> None:
    first, second = math_ends(text)
    assert text[:first].count("\n") == (1 if "5" in text else 2)
    assert second == len(text)


def test_money_is_not_mathematics() -> None:
    assert [m.group() for m in FORMULA.finditer("\\$5 and \\$6")] == ["\\$", "\\$"]


def test_short_pieces_join_what_follows() -> None:
    text = "Then\nwe find that x is equal to 3.\nSo\nwe find that y is equal to 4.\nok\n"
    ends = math_ends(text)
    assert next(text[a:b] for a, b in pairwise([0, *ends])) == "Then\nwe find that x is equal to 3.\n"
    assert len(ends) == 2


def test_the_answer_is_a_step_of_its_own_however_short() -> None:
    text = "We add the two numbers and get eleven.\nok\n#### 11\nbye\n"
    assert math_ends(text)[-3:] == [text.index("####"), text.index("bye"), len(text)]


def test_sentences_are_steps_where_lines_are_few() -> None:
    text = "First we add 3.5 and 4.5 to get $8.$ Then we double it, e.g. by adding. The answer is $\\boxed{16}$."
    steps = [text[a:b] for a, b in pairwise([0, *math_ends(text)])]
    assert steps == [
        "First we add 3.5 and 4.5 to get $8.$",
        " Then we double it, e.g. by adding.",
        " The answer is $\\boxed{16}$.",
    ]
    many = "".join(f"This is line number {i}. It has two parts.\n" for i in range(4))
    assert len(math_ends(many)) == 4


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            ["Then\n", "we find that x equals 3.\n", " Next. ", "$x\n=3$", "\\[", "\\]", "#### 7\n", "\n", "$"]
        ),
        max_size=40,
    ).map("".join)
)
def test_math_steps_are_few_and_whole(text: str) -> None:
    ends = math_ends(text)
    assert len(ends) <= 9
    assert ends == sorted(set(ends))
    assert bool(ends) == bool(text.strip())
    if ends:
        assert not text[ends[-1] :].strip()
    for formula in FORMULA.finditer(text):
        assert not any(formula.start() < end < formula.end() for end in ends)


def test_merging_long_pieces_stops_at_nine() -> None:
    text = "".join(f"This is line number {i:2d} of many.\n" for i in range(30))
    assert len(merge_steps(text, line_ends(text))) == 9
    assert merge_steps("", []) == []


@pytest.mark.parametrize("kind", ["byte-level", "unigram"])
def test_the_math_rule_on_tokens(kind: str) -> None:
    text = (
        "Mia starts with 12 coins.\nSo\nMia finds 5: 12 + 5 = 17.\nMia sells 6: 17 - 6 = 11.\n\nok\nThe answer is 11."
    )
    ids = tokenizer_of(kind).encode(text).ids
    steps = steps_of(kind, ids, split_steps(ids, decode_of(kind), "math"))
    assert "".join(steps).strip() == decode_of(kind)(ids).strip()
    assert 3 <= len(steps) <= 5


@given(st.lists(st.integers(0, 5) | st.just(float("inf")), max_size=40))
def test_the_shortest_neighbours_are_joined_first(lengths: list[float]) -> None:
    steps = list(enumerate(lengths, 1))
    joined = join_shortest(steps)
    while len(steps) > 9:
        i = min(range(len(steps) - 1), key=lambda i: steps[i][1] + steps[i + 1][1])
        steps[i : i + 2] = [(steps[i + 1][0], steps[i][1] + steps[i + 1][1])]
    assert joined == [end for end, _ in steps]
