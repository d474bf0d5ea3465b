"""Train the embedded pair: a byte-level BPE tokenizer, a target, and a draft distilled from it.

    python -m ssd_core.training.pair tokenizer --work DIR
    python -m ssd_core.training.pair target    --work DIR --minutes 9
    python -m ssd_core.training.pair draft     --work DIR --minutes 9 [--warm-start DRAFT]

Each stage reads what the one before it left in DIR, so that a stage can be repeated alone. The learning-rate schedule
follows elapsed time, not a step count: a faster device sees more tokens in the same minutes (the model card says how many).
A GPU is assumed; a CPU works and is slow.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ssd_core.training.corpus import PACKAGES, source_files
from ssd_core.training.writer import Writer, gumbel_like

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 4096
MAX_POSITIONS = 2048
TARGET_SHAPE = {"hidden_size": 512, "num_hidden_layers": 7, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1024}
DRAFT_SHAPE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 576}
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The pair is a base model: a chat is the plain sequence of its messages."""

NUM_PROMPTS = 256
PROMPT_TOKENS = 160
OWN_PROMPT_TOKENS, OWN_NEW_TOKENS, OWN_BATCH = 128, 192, 8192
"""The target's own text that the draft learns: so many corpus tokens, continued by so many, so many texts at a time. Short, as requests
are: long greedy texts run into loops, which teach little."""
OWN_PARTS, OWN_REWRITE_STEPS = 8, 256
"""So many batches of own text are at hand, the oldest of which is written anew every so many steps."""
CORPUS_SHARE = 1 / 8
"""Of the tokens of a step: the draft stays a model of long windows of plain files too."""
GREEDY_TEMPERATURE = 0.3
"""At which greedy text is compared, for a gradient: mostly the likeliest token counts, and how near the second is."""


def model_config(shape: dict[str, int]) -> Qwen3Config:
    return Qwen3Config(
        **shape,
        head_dim=64,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


# ---------------------------------------------------------------- tokenizer and tokens


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.model_max_length = MAX_POSITIONS
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All texts as one uint16 vector, each followed by the end-of-text id 0."""
    parts: list[np.ndarray] = []
    for start in range(0, len(texts), 512):
        batch = tokenizer.backend_tokenizer.encode_batch_fast(texts[start : start + 512], add_special_tokens=False)
        parts.extend(np.array([*encoding.ids, 0], dtype=np.uint16) for encoding in batch)
    return np.concatenate(parts)


def stage_tokenizer(work: Path) -> None:
    files = list(source_files())
    training = [file for file in files if not file.is_held_out]
    held_out = [file for file in files if file.is_held_out]
    generator = np.random.default_rng(0)
    order = generator.permutation(len(training))
    if (work / "tokenizer").exists():  # a later stage is being repeated elsewhere: same ids
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    else:
        tokenizer = build_tokenizer([training[i].text for i in order[: len(order) // 3]])
        tokenizer.save_pretrained(work / "tokenizer")
    train_tokens = encode(tokenizer, [training[i].text for i in order])
    held_out_tokens = encode(tokenizer, [file.text for file in held_out])
    np.save(work / "train.npy", train_tokens)
    np.save(work / "held_out.npy", held_out_tokens)
    prompts = [prompt for file in held_out if (prompt := _prompt_of(tokenizer, file.text, generator))]
    generator.shuffle(prompts)
    (work / "prompts.json").write_text(json.dumps(prompts[:NUM_PROMPTS], indent=0))
    sizes = Counter[str]()
    for file in training:
        sizes[file.origin] += len(file.text)
    _record(
        work,
        "tokenizer",
        {
            "files": len(training),
            "held_out_files": len(held_out),
            "characters": sum(sizes.values()),
            "train_tokens": len(train_tokens),
            "held_out_tokens": len(held_out_tokens),
            "origins": {name: {"characters": size, "licence": PACKAGES.get(name, "PSF-2.0")} for name, size in sizes.most_common()},
        },
    )


def _prompt_of(tokenizer: PreTrainedTokenizerFast, text: str, generator: np.random.Generator) -> str | None:
    """A stretch of whole lines, about PROMPT_TOKENS tokens, from the first half of a file that goes on after it."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 80:
        return None
    first = int(generator.integers(0, len(lines) // 2))
    taken: list[str] = []
    for line in lines[first:]:
        taken.append(line)
        if len(tokenizer("".join(taken)).input_ids) >= PROMPT_TOKENS:
            return "".join(taken) if len(tokenizer("".join(taken)).input_ids) < 2 * PROMPT_TOKENS else None
    return None


# ---------------------------------------------------------------- training


class Windows:
    """Random windows of `length` tokens out of one long vector, on the device. Returns int64 [batch, length]."""

    def __init__(self, tokens: np.ndarray, length: int, device: torch.device) -> None:
        self._tokens = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self._offsets = torch.arange(length, device=device)

    def __len__(self) -> int:
        """Tokens of the vector."""
        return len(self._tokens)

    def sample(self, batch: int) -> torch.Tensor:
        starts = torch.randint(0, len(self._tokens) - len(self._offsets), (batch, 1), device=self._tokens.device)
        return self._tokens[starts + self._offsets].long()


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first 2 %, then a cosine to 2 % of the peak. `progress` in [0, 1]."""
    if progress < 0.02:
        return peak * (0.05 + 0.95 * progress / 0.02)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98)))


def train(
    model: Qwen3ForCausalLM,
    loss_of_step: Callable[[float], torch.Tensor],
    minutes: float,
    peak_learning_rate: float,
    name: str,
    checkpoint: Path | None = None,
) -> int:
    """AdamW until the time is up. Returns the number of optimiser steps. `loss_of_step` takes the progress in [0, 1]. The weights are
    saved to `checkpoint` once a minute."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_learning_rate, betas=(0.9, 0.95), fused=True)
    loss_of_step(0.0).backward()  # compile outside the clock
    optimizer.zero_grad()
    began, step, saved = time.monotonic(), 0, 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, peak_learning_rate)
        loss = loss_of_step(progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 200 == 0:
            print(f"{name} step {step} progress {progress:.2f} loss {loss.item():.4f}", flush=True)
        if checkpoint and time.monotonic() - began > 60 * (saved + 1):
            saved += 1
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(checkpoint)
    return step


def autocast(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16)


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, windows: Windows, batches: int = 16) -> float:
    """Mean cross-entropy in nats per token over held-out windows."""
    torch.manual_seed(1)
    total = 0.0
    for _ in range(batches):
        ids = windows.sample(32)
        with autocast(ids.device):
            logits = model(ids[:, :-1], use_cache=False).logits
        total += F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).item()
    return total / batches


def stage_target(work: Path, minutes: float, batch: int, length: int, peak: float, device: torch.device) -> None:
    torch.manual_seed(0)
    windows = Windows(np.load(work / "train.npy"), length + 1, device)
    model = Qwen3ForCausalLM(model_config(TARGET_SHAPE)).to(device)

    @torch.compile(disable=device.type != "cuda")
    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            logits = model(ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    steps = train(model, lambda _: loss_of(windows.sample(batch)), minutes, peak, "target")
    model.to(torch.bfloat16).save_pretrained(work / "target")
    held_out = Windows(np.load(work / "held_out.npy"), length + 1, device)
    _record(
        work,
        "target",
        {
            "parameters": model.num_parameters(),
            "minutes": minutes,
            "steps": steps,
            "tokens_seen": steps * batch * length,
            "held_out_loss": held_out_loss(model.float(), held_out),
        },
    )


# ---------------------------------------------------------------- the target's own text


class OwnText:
    """OWN_PARTS * OWN_BATCH continuations of corpus windows by the target, with its hidden states, so that nothing has to be computed
    twice; half of them greedy, half at temperatures from 0.7 to 1.0."""

    def __init__(self, target: Qwen3ForCausalLM, corpus: Windows) -> None:
        self._writer = Writer(target, is_fused=True)
        self._corpus = corpus
        self._device = next(target.parameters()).device
        self.tokens_written = 0
        parts = [self._write() for _ in range(OWN_PARTS)]
        self._ids, self._states, self._temperatures = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self._oldest = 0

    def sample(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random texts: ids [count, prompt + new], states [count, new, H], temperatures [count]."""
        rows = torch.randint(0, len(self._ids), (count,), device=self._device)
        return self._ids[rows], self._states[rows], self._temperatures[rows]

    def rewrite_oldest(self) -> None:
        rows = slice(self._oldest * OWN_BATCH, (self._oldest + 1) * OWN_BATCH)
        self._ids[rows], self._states[rows], self._temperatures[rows] = self._write()
        self._oldest = (self._oldest + 1) % OWN_PARTS

    def _write(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        temperatures = 0.7 + 0.3 * torch.rand(OWN_BATCH, device=self._device)
        temperatures[::2] = 0.0
        prompts = self._corpus.sample(OWN_BATCH)[:, :OWN_PROMPT_TOKENS]
        ids, states = self._writer.continue_texts(prompts, OWN_NEW_TOKENS, temperatures)
        self.tokens_written += OWN_BATCH * OWN_NEW_TOKENS
        return ids, states, temperatures


# ---------------------------------------------------------------- distillation


def divergence(logits: torch.Tensor, wanted: torch.Tensor, temperatures: torch.Tensor, acceptance_share: torch.Tensor) -> torch.Tensor:
    """Mean over texts and positions of KL(target || draft), mixed with the probability that a guess is rejected: the total variation
    1 - sum min(p, q) of both distributions at the text's temperature. Logits of draft and target [B, S, V], `temperatures` [B]."""
    draft, target = logits.float(), wanted.float()
    log_q, log_p = draft.log_softmax(-1), target.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    divisor = temperatures.clamp(min=GREEDY_TEMPERATURE)[:, None, None]
    variation = 1 - torch.minimum((draft / divisor).softmax(-1), (target / divisor).softmax(-1)).sum(-1)
    return ((1 - acceptance_share) * kl + acceptance_share * variation).mean()


def stage_draft(
    work: Path,
    minutes: float,
    batch: int,
    length: int,
    peak: float,
    device: torch.device,
    warm_start: Path | None = None,
    acceptance_share: float = 0.9,
    kl_alone: float = 1 / 3,
) -> None:
    """Distil on the target's own text, which is what the draft will be asked to guess and is written while the draft learns, and on
    corpus windows of `length` tokens, CORPUS_SHARE of the `batch * length` tokens of a step. KL alone for the share `kl_alone` of the
    time, since what is never guessed right has no gradient otherwise; then mixed with the probability of rejection."""
    torch.manual_seed(2)
    corpus = Windows(np.load(work / "train.npy"), length, device)
    held_out = Windows(np.load(work / "held_out.npy"), length + 1, device)
    teacher = Qwen3ForCausalLM.from_pretrained(work / "target", dtype=torch.bfloat16).to(device).eval()
    if warm_start:
        draft = Qwen3ForCausalLM.from_pretrained(warm_start, dtype=torch.float32).to(device)
    else:
        draft = Qwen3ForCausalLM(model_config(DRAFT_SHAPE)).to(device)
    began = time.monotonic()
    own_text = OwnText(teacher, corpus)
    print(f"draft: {own_text.tokens_written:,} tokens of the target's own text, {time.monotonic() - began:.0f} s", flush=True)
    num_corpus = max(1, round(batch * CORPUS_SHARE))
    num_own = (batch - num_corpus) * length // (OWN_PROMPT_TOKENS + OWN_NEW_TOKENS)
    plain = torch.ones(num_corpus, device=device)

    @torch.compile(disable=device.type != "cuda", dynamic=False)
    def loss_of(
        ids: torch.Tensor, states: torch.Tensor, temperatures: torch.Tensor, windows: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            wanted_own = teacher.lm_head(states)
            wanted_corpus = teacher(windows, use_cache=False).logits
        with autocast(device):
            own = draft(ids[:, :-1], use_cache=False, logits_to_keep=OWN_NEW_TOKENS).logits
            of_corpus = draft(windows, use_cache=False).logits
        return (1 - CORPUS_SHARE) * divergence(own, wanted_own, temperatures, share) + CORPUS_SHARE * divergence(
            of_corpus, wanted_corpus, plain, share
        )

    calls = 0

    def loss_of_step(progress: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls % OWN_REWRITE_STEPS == 0:
            own_text.rewrite_oldest()
        share = torch.full((), acceptance_share if progress >= kl_alone else 0.0, device=device)
        return loss_of(*own_text.sample(num_own), corpus.sample(num_corpus), share)

    steps = train(draft, loss_of_step, minutes, peak, "draft", checkpoint=work / "draft")
    draft.to(torch.bfloat16).save_pretrained(work / "draft")
    draft.float()
    _record(
        work,
        "draft_continued" if warm_start else "draft",
        {
            "parameters": draft.num_parameters(),
            "minutes": minutes,
            "steps": steps,
            "peak_learning_rate": peak,
            "acceptance_share": acceptance_share,
            "kl_alone": kl_alone,
            "corpus_tokens": len(corpus),
            "corpus_tokens_seen": steps * num_corpus * length,
            "own_text_tokens": own_text.tokens_written,
            "own_text_tokens_seen": steps * num_own * OWN_NEW_TOKENS,
            "held_out_loss": held_out_loss(draft, held_out),
            **agreement(teacher, draft, held_out),
        },
    )


def agreement(target: Qwen3ForCausalLM, draft: Qwen3ForCausalLM, held_out: Windows) -> dict[str, float]:
    """`agreement_on` 256 held-out windows of 128 tokens."""
    torch.manual_seed(3)
    return agreement_on(target, draft, held_out.sample(256)[:, :128])


@torch.no_grad()
def agreement_on(target: Qwen3ForCausalLM, draft: Qwen3ForCausalLM, prompts: torch.Tensor) -> dict[str, float]:
    """How often the draft's first (and first three) choices hold the target's token, on the target's own continuations of `prompts` by
    128 tokens: greedily, and at temperatures 0.8 and 1.0, where both choose with the same noise. Overlap: mean sum min(p, q)."""
    torch.manual_seed(4)
    writer, found = Writer(target), dict[str, float]()
    for name, temperature, draws in (("greedy", 0.0, 1), ("t0.8", 0.8, 8), ("t1.0", 1.0, 8)):
        ids, states = writer.continue_texts(prompts, 128, torch.full((len(prompts),), temperature, device=prompts.device))
        wanted = target.lm_head(states).float()
        logits = draft(ids[:, :-1], use_cache=False, logits_to_keep=128).logits.float()
        ranks = torch.stack([_ranks(wanted, logits, temperature) for _ in range(draws)])
        found[f"{name}_top1_agreement"] = (ranks < 1).float().mean().item()
        found[f"{name}_top3_agreement"] = (ranks < 3).float().mean().item()
        if temperature:
            p, q = (wanted / temperature).softmax(-1), (logits / temperature).softmax(-1)
            found[f"{name}_overlap"] = torch.minimum(p, q).sum(-1).mean().item()
    return found


def _ranks(wanted: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """How many tokens the draft prefers to the target's choice, both with the same fresh noise. [B, S]."""
    noise = temperature * gumbel_like(wanted)
    token = (wanted + noise).argmax(-1, keepdim=True)
    scores = logits + noise
    return (scores > scores.gather(-1, token)).sum(-1)


def _record(work: Path, stage: str, facts: dict[str, object]) -> None:
    """Add a stage's facts to DIR/training.json, from which the model card is written."""
    path = work / "training.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    record[stage] = {**facts, "device": device, "torch": torch.__version__}
    path.write_text(json.dumps(record, indent=1))
    print(stage, json.dumps(facts)[:2000], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tokenizer", "target", "draft"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="training time of this stage")
    parser.add_argument("--batch", type=int, default=96, help="sequences of --length per step; draft: as many tokens")
    parser.add_argument("--length", type=int, default=1024, help="tokens per sequence")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak of the schedule")
    parser.add_argument("--warm-start", type=Path, help="draft: folder of weights to begin with instead of random ones")
    parser.add_argument("--acceptance-share", type=float, default=0.9, help="draft: share of the probability of rejection in the loss")
    parser.add_argument("--kl-alone", type=float, default=1 / 3, help="draft: share of the time in which the loss is KL alone")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.stage == "tokenizer":
        stage_tokenizer(args.work)
    elif args.stage == "target":
        stage_target(args.work, args.minutes, args.batch, args.length, args.learning_rate, device)
    else:
        stage_draft(
            args.work,
            args.minutes,
            args.batch,
            args.length,
            args.learning_rate,
            device,
            args.warm_start,
            args.acceptance_share,
            args.kl_alone,
        )


if __name__ == "__main__":
    main()
