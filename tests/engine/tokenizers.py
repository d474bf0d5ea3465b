"""Small tokenizers of the kinds that models ship: byte-level, and with metaspace and byte fallback."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from deployments.engines import byte_tokenizer
from ssd_core.engine.loader import load_tokenizer

WORDS = ("Hello", "world", "the", "end", "user", "system", "assistant", "You", "are", "<", ">", "|", "im", "_end")
CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
PLAIN_ADDED = ("<think>", "</think>", "<|tool|>")
"""Added tokens that are not special: decoding keeps them."""


def _vocabulary(pieces: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Control tokens, bytes and characters, then words with the merges that build them from left to right."""
    vocabulary = {token: i for i, token in enumerate(CONTROL)}
    for token in (*(f"<0x{byte:02X}>" for byte in range(256)), *(chr(code) for code in range(33, 127)), "▁", "é", "�"):
        vocabulary.setdefault(token, len(vocabulary))
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        for length in range(2, len(piece) + 1):
            pair = (piece[: length - 1], piece[length - 1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.setdefault(piece[:length], len(vocabulary))
    return vocabulary, merges


def _fallback(pieces: Iterable[str]) -> Tokenizer:
    vocabulary, merges = _vocabulary(pieces)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


@cache
def llama2() -> Tokenizer:
    """As Llama 2's: the normaliser puts a space before every stretch of text, the decoder drops the first."""
    tokenizer = _fallback([f"▁{word}" for word in WORDS])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


@cache
def mistral() -> Tokenizer:
    """As newer conversions of SentencePiece: only the beginning of a whole text gets a space."""
    tokenizer = _fallback([f"▁{word}" for word in WORDS])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


@cache
def metaspace() -> Tokenizer:
    """Without byte fallback in the decoder: `<0x41>` is text there."""
    tokenizer = _fallback([f"▁{word}" for word in WORDS])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    return tokenizer


@cache
def gemma() -> Tokenizer:
    """As Gemma's: spaces become ▁, and no space is added or dropped anywhere."""
    tokenizer = _fallback([*WORDS, *(f"▁{word}" for word in WORDS)])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@cache
def byte_level() -> Tokenizer:
    """As Qwen's and Llama 3's, with few merges: most characters beyond ASCII are several tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
    return tokenizer


@cache
def embedded() -> Tokenizer:
    """The embedded pair's, which is byte-level with merges."""
    tokenizer = load_tokenizer("embedded:target").tokenizer
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
    return tokenizer


ALL = {make.__name__: make for make in (llama2, mistral, metaspace, gemma, byte_level, embedded)}
FALLBACK = ("llama2", "mistral", "gemma")
