"""Writes a checkpoint that is mostly zeros without writing the zeros: holes in the file, which every reader sees as zeros.

So a model of 65 GB that was inflated from a small one takes a few hundred MB of disk. The format is Hugging Face's: config.json and
model.safetensors (https://huggingface.co/docs/safetensors: eight bytes that say how long the header is, the header in JSON, the tensors).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import PreTrainedModel

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PIECE_BYTES = 2**14
"""Written if anything in it is not zero."""


def write_sparse(model: PreTrainedModel, folder: Path, tokenizer_folder: Path) -> None:
    """`folder` is made where it is missing; the tokenizer's files are copied into it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    for path in [*tokenizer_folder.glob("tokenizer*.json"), *tokenizer_folder.glob("*.jinja")]:
        shutil.copy(path, folder)
    parameters = dict(model.named_parameters())  # a tied weight once
    header, end = _header(parameters)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
        for parameter in parameters.values():
            _write_nonzero(file, parameter.detach())


def _header(parameters: dict[str, torch.nn.Parameter]) -> tuple[bytes, int]:
    """And the number of bytes of all tensors, which follow it in order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in parameters.items():
        begin, end = end, end + parameter.nbytes
        entries[name] = {"dtype": DTYPE_NAMES[parameter.dtype], "shape": list(parameter.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8), end


def _write_nonzero(file: BinaryIO, tensor: torch.Tensor) -> None:
    """From where the file stands; it then stands behind the tensor."""
    begin = file.tell()
    content = tensor.contiguous().view(-1).view(torch.uint8)
    for start in range(0, len(content), 2**30):
        part = content[start : start + 2**30]
        pieces = torch.nn.functional.pad(part, (0, -len(part) % PIECE_BYTES)).view(-1, PIECE_BYTES)
        for i in pieces.any(1).nonzero().view(-1).tolist():
            file.seek(begin + start + i * PIECE_BYTES)
            file.write(part[i * PIECE_BYTES : (i + 1) * PIECE_BYTES].cpu().numpy().tobytes())
    file.seek(begin + len(content))
