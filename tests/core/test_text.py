"""Text as it streams is the text that decoding everything at once gives, whatever the ids, the tokenizer and the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ssd_core.errors import TextError
from ssd_core.text import TextStream, prompt_ids
from tests.engine.tokenizers import ALL, FALLBACK, llama2

PROMPTS = ("", "Hello world,", "Hello", "the end\n", "x ", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "<s>")


def streamed(stream: TextStream, tokens: Sequence[int], cuts: Sequence[int] = ()) -> str:
    edges = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    pieces = [stream.push(tokens[a:b]).text for a, b in pairwise(edges)]
    return "".join(pieces) + stream.finish()


def bytes_of(tokenizer: Tokenizer, data: bytes) -> list[int]:
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]
    assert None not in ids
    return ids


@st.composite
def outputs(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Random ids, rich in bytes, special tokens and ids that are no tokens."""
    size = tokenizer.get_vocab_size()
    any_id = st.integers(0, size + 3)
    special = st.sampled_from(sorted(tokenizer.get_added_tokens_decoder()))
    text = st.text(max_size=6).map(lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids))
    lead = st.sampled_from([b"\xc3", b"\xa9", b"\xf0\x9f\x98", b"\x80", b"\xe2\x98", b"\x83", b"\xff", b"\n", b" ", b"a"])
    if tokenizer.token_to_id("<0x41>") is not None:
        some_bytes = lead.map(lambda data: bytes_of(tokenizer, data))
    else:
        some_bytes = lead.map(lambda data: [i for byte in data if (i := byte_ids(tokenizer)[byte]) is not None])
    one = st.one_of(any_id.map(lambda i: [i]), special.map(lambda i: [i]), text, some_bytes, some_bytes)
    return [token for part in draw(st.lists(one, max_size=14)) for token in part]


def byte_ids(tokenizer: Tokenizer) -> list[int | None]:
    """Of a byte-level tokenizer: the token of each single byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    names = [ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(b))[0][0] for b in range(128)]
    letters = sorted(ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 256 + len(letters)))
    name_of = {b: chr(b) if b in printable else chr(next(others)) for b in range(256)}
    assert [name_of[b] for b in range(128)] == names
    return [tokenizer.token_to_id(name_of[b]) for b in range(256)]


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_pieces_are_what_decoding_everything_has_beyond_the_prompt(name: str, skips: bool, data: st.DataObject) -> None:
    tokenizer = ALL[name]()
    prompt = prompt_ids(tokenizer, data.draw(st.sampled_from(PROMPTS)))
    tokens = data.draw(outputs(tokenizer))
    cuts = data.draw(st.lists(st.integers(1, 30), max_size=4))
    before = tokenizer.decode(prompt, skip_special_tokens=skips)
    expected = tokenizer.decode([*prompt, *tokens], skip_special_tokens=skips)[len(before) :]
    assert streamed(TextStream(tokenizer, prompt, skip_special_tokens=skips), tokens, cuts) == expected
    assert streamed(TextStream(tokenizer, prompt, skip_special_tokens=skips), tokens, range(len(tokens))) == expected


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_a_stop_ends_the_output_where_decoding_up_to_a_token_first_shows_it(name: str, data: st.DataObject) -> None:
    """Stop strings have no U+FFFD here: an incomplete character is none."""
    tokenizer = ALL[name]()
    prompt = prompt_ids(tokenizer, data.draw(st.sampled_from(PROMPTS)))
    tokens = data.draw(outputs(tokenizer))
    stop = data.draw(st.lists(st.sampled_from(["\n", " ", "a", "é", "He", "o w", "world", "\n\n", "ab"]), min_size=1, max_size=3))
    cuts = data.draw(st.lists(st.integers(1, 30), max_size=4))
    before = len(tokenizer.decode(prompt))
    texts = [tokenizer.decode([*prompt, *tokens[:n]])[before:] for n in range(1, len(tokens) + 1)]
    ends = [n for n, text in enumerate(texts, 1) if any(s in text for s in stop)]
    stream = TextStream(tokenizer, prompt, stop)
    edges = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    text, num_tokens, is_stopped = "", 0, False
    for a, b in pairwise(edges):
        delta = stream.push(tokens[a:b])
        text, num_tokens, is_stopped = text + delta.text, num_tokens + delta.num_tokens, delta.is_stopped
        if is_stopped:
            break
    if not ends:
        assert not is_stopped and num_tokens == len(tokens)
        return
    shown = texts[ends[0] - 1]
    cut = min(found for s in stop if (found := shown.find(s)) >= 0)
    assert (text, num_tokens, is_stopped) == (shown[:cut], ends[0], True)


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma"])
def test_the_space_before_an_answers_first_word_is_kept(name: str) -> None:
    tokenizer = ALL[name]()
    hello = tokenizer.token_to_id("▁Hello")
    assert streamed(TextStream(tokenizer, prompt_ids(tokenizer, "Hello world,")), [hello]) == " Hello"
    bare = " Hello" if name == "gemma" else "Hello"
    assert streamed(TextStream(tokenizer, prompt_ids(tokenizer, "")), [hello]) == bare


@pytest.mark.parametrize("name", FALLBACK)
def test_bytes_that_are_no_text_are_replacement_characters(name: str) -> None:
    tokenizer = ALL[name]()
    prompt = prompt_ids(tokenizer, "Hello")
    lead, newline, word = bytes_of(tokenizer, b"\xc3"), bytes_of(tokenizer, b"\n"), [tokenizer.token_to_id("▁world")]
    assert streamed(TextStream(tokenizer, prompt), lead + word) == "� world"
    assert streamed(TextStream(tokenizer, prompt), lead + newline) == "��"
    assert streamed(TextStream(tokenizer, prompt), lead) == "�"
    assert streamed(TextStream(tokenizer, prompt), bytes_of(tokenizer, "é☃".encode()) + word) == "é☃ world"


@pytest.mark.parametrize("name", FALLBACK)
def test_a_newline_stops_at_its_own_token(name: str) -> None:
    """It is one byte there, whose run could still go on."""
    tokenizer = ALL[name]()
    stream = TextStream(tokenizer, prompt_ids(tokenizer, "Hello"), ["\n"])
    tokens = [tokenizer.token_to_id("▁world"), *bytes_of(tokenizer, b"\n\n")]
    delta = stream.push(tokens)
    assert (delta.text, delta.num_tokens, delta.is_stopped) == (" world", 2, True)


def test_a_complete_character_at_a_prompts_end_is_the_prompts_own() -> None:
    tokenizer = llama2()
    prompt = [tokenizer.token_to_id("▁Hello"), *bytes_of(tokenizer, "☃".encode())]
    assert streamed(TextStream(tokenizer, prompt), bytes_of(tokenizer, b"\xff")) == "�"
    assert streamed(TextStream(tokenizer, prompt), bytes_of(tokenizer, "☃".encode())) == "☃"


@pytest.mark.parametrize("name", ["llama2", "byte_level"])
def test_a_character_that_a_prompt_leaves_open_belongs_to_the_answer(name: str) -> None:
    tokenizer = ALL[name]()
    byte = bytes_of(tokenizer, "é".encode()) if name == "llama2" else [byte_ids(tokenizer)[b] for b in "é".encode()]
    prompt = [*prompt_ids(tokenizer, "a"), byte[0]]
    assert streamed(TextStream(tokenizer, prompt), [byte[1]]) == "é"


def test_what_streams_is_never_far_behind() -> None:
    """In a byte-level vocabulary at most one character is held back, garbage or not; words never are."""
    tokenizer = ALL["byte_level"]()
    stream = TextStream(tokenizer, prompt_ids(tokenizer, "a"))
    garbage = [byte_ids(tokenizer)[byte] for byte in (0xFF, 0x80, 0xC3)] * 50
    given_out = list(accumulate(len(stream.push([token]).text) for token in garbage))
    assert all(num_given_out >= n - 1 for n, num_given_out in enumerate(given_out, 1))
    words = TextStream(llama2(), prompt_ids(llama2(), "a"))
    assert [words.push([llama2().token_to_id(f"▁{word}")]).text for word in ("the", "end")] == [" the", " end"]


def test_a_tokenizers_exception_says_nothing_of_the_text() -> None:
    class Failing:
        """Decodes the prompt, and nothing more."""

        def __init__(self) -> None:
            self.num_calls = 0

        def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
            self.num_calls += 1
            if self.num_calls > 1:
                raise Exception("Invalid prefix: 'my secret'")
            return ""

        def get_vocab(self) -> dict[str, int]:
            return {}

        def get_added_tokens_decoder(self) -> dict[int, object]:
            return {}

        def id_to_token(self, token: int) -> str:
            return "x"

    stream = TextStream(Failing(), [1])  # type: ignore[arg-type]
    with pytest.raises(TextError) as raised:
        stream.push([1])
    assert "secret" not in str(raised.value) and raised.value.__cause__ is None and raised.value.__suppress_context__
