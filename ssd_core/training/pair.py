"""Train the embedded pair: a byte-level BPE tokenizer, a target, and a draft distilled from it.

    python -m ssd_core.training.pair tokenizer --work DIR
    python -m ssd_core.training.pair target    --work DIR --minutes 9
    python -m ssd_core.training.pair draft     --work DIR --minutes 9

Each stage reads what the one before it left in DIR, so that a stage can be repeated alone. The learning-rate schedule
follows elapsed time, not a step count: a faster device sees more tokens in the same minutes (the model card says how many).
A GPU is assumed; a CPU works and is slow.
"""

from __future__ import annotations

import argparse
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

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 4096
MAX_POSITIONS = 2048
TARGET_SHAPE = {"hidden_size": 512, "num_hidden_layers": 7, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1024}
DRAFT_SHAPE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 576}
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The pair is a base model: a chat is the plain sequence of its messages."""

NUM_PROMPTS = 256
PROMPT_TOKENS = 160
OWN_PROMPT_TOKENS, OWN_NEW_TOKENS, OWN_BATCH = 128, 384, 4096
"""The target's own text that the draft learns: so many corpus tokens, continued by so many, so many sequences at a time."""


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
) -> int:
    """AdamW until the time is up. Returns the number of optimiser steps. `loss_of_step` takes the progress in [0, 1]."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_learning_rate, betas=(0.9, 0.95), fused=True)
    loss_of_step(0.0).backward()  # compile outside the clock
    optimizer.zero_grad()
    began, step = time.monotonic(), 0
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


@torch.no_grad()
def continue_prompts(
    model: Qwen3ForCausalLM, windows: Windows, batch: int, prompt: int, new: int, temperatures: torch.Tensor
) -> torch.Tensor:
    """The model's own continuations of `batch` corpus windows, `temperatures` [batch] (0 = greedy). Returns ids [batch, prompt + new]."""
    from transformers import StaticCache

    ids = windows.sample(batch)[:, :prompt]
    cache = StaticCache(config=model.config, max_cache_len=prompt + new)
    logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    out = [ids]
    for i in range(new):
        noise = -torch.log(-torch.log(torch.rand_like(logits.float()).clamp_(1e-9, 1 - 1e-7)))
        token = (logits.float() + temperatures[:, None] * noise).argmax(-1, keepdim=True)
        out.append(token)
        position = torch.full((1,), prompt + i, device=ids.device)
        logits = model(token, past_key_values=cache, use_cache=True, position_ids=position[None], logits_to_keep=1).logits[:, -1]
    return torch.cat(out, 1)


def stage_draft(work: Path, minutes: float, batch: int, length: int, peak: float, device: torch.device) -> None:
    """Distil: KL(target || draft) on corpus text and on the target's own continuations, which is what the draft will be asked to
    guess: a quarter of each batch at first, three quarters once the draft knows the language. A quarter of the time goes into writing
    them."""
    torch.manual_seed(2)
    corpus = Windows(np.load(work / "train.npy"), length, device)
    teacher = Qwen3ForCausalLM.from_pretrained(work / "target", dtype=torch.bfloat16).to(device).eval()
    began = time.monotonic()
    own: list[torch.Tensor] = []
    temperatures = torch.tensor([0.0, 0.0, 0.7, 1.0], device=device).repeat(OWN_BATCH // 4)
    while time.monotonic() - began < 60 * minutes * 0.25:
        texts = continue_prompts(teacher, corpus, OWN_BATCH, OWN_PROMPT_TOKENS, OWN_NEW_TOKENS, temperatures)
        own.append(texts[torch.randperm(OWN_BATCH, device=device)].view(-1, length))  # several to a window, as files are in the corpus
    own_text = torch.cat(own)
    print(f"draft: {own_text.numel():,} tokens of the target's own text, {time.monotonic() - began:.0f} s", flush=True)

    draft = Qwen3ForCausalLM(model_config(DRAFT_SHAPE)).to(device)

    @torch.compile(disable=device.type != "cuda")
    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(ids, use_cache=False).logits.float().log_softmax(-1)
        with autocast(device):
            logits = draft(ids, use_cache=False).logits
        return F.kl_div(logits.float().log_softmax(-1), wanted, log_target=True, reduction="none").sum(-1).mean()

    def loss_of_step(progress: float) -> torch.Tensor:
        num_own = batch * 3 // 4 if progress > 0.35 else batch // 4
        rows = torch.randint(0, len(own_text), (num_own,), device=device)
        return loss_of(torch.cat([own_text[rows], corpus.sample(batch - num_own)]))

    steps = train(draft, loss_of_step, minutes * 0.75, peak, "draft")
    draft.to(torch.bfloat16).save_pretrained(work / "draft")
    held_out = Windows(np.load(work / "held_out.npy"), length + 1, device)
    _record(
        work,
        "draft",
        {
            "parameters": draft.num_parameters(),
            "minutes": minutes,
            "steps": steps,
            "corpus_tokens": len(corpus),
            "tokens_seen": steps * batch * length,
            "own_text_tokens": own_text.numel(),
            "held_out_loss": held_out_loss(draft.float(), held_out),
            **agreement(teacher, draft, held_out),
        },
    )


@torch.no_grad()
def agreement(target: Qwen3ForCausalLM, draft: Qwen3ForCausalLM, held_out: Windows) -> dict[str, float]:
    """How often the draft's first (and first three) choices hold the target's greedy token, on the target's own greedy text."""
    torch.manual_seed(3)
    ids = continue_prompts(target, held_out, 256, 128, 128, torch.zeros(256, device=next(target.parameters()).device))
    logits = draft(ids[:, :-1], use_cache=False).logits[:, 127:]
    top = logits.topk(3, -1).indices
    right = top == ids[:, 128:, None]
    return {"greedy_top1_agreement": right[..., 0].float().mean().item(), "greedy_top3_agreement": right.any(-1).float().mean().item()}


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
    parser.add_argument("--batch", type=int, default=96, help="sequences per step")
    parser.add_argument("--length", type=int, default=1024, help="tokens per sequence")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak of the schedule")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.stage == "tokenizer":
        stage_tokenizer(args.work)
    elif args.stage == "target":
        stage_target(args.work, args.minutes, args.batch, args.length, args.learning_rate, device)
    else:
        stage_draft(args.work, args.minutes, args.batch, args.length, args.learning_rate, device)


if __name__ == "__main__":
    main()
