#!/usr/bin/env python3
"""Makes qwen35_logits.safetensors: Hugging Face's logits of the shipped model, in float32 on the CPU.

    python tests/data/make_qwen35_logits.py

Needs torch, transformers and safetensors; no network. input_ids [tokens] is the prompt below, logits
[tokens,vocab] are Transformers' own code (no kernels but PyTorch's), weights as stored and computed with
in float32. The prompt is longer than a chunk of 64 tokens. tests/cpp/qwen35_test.cc compares examples/qwen35
with it.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import save_file

PROMPT = (
    "And it came to pass in those days, that Mr. Darcy went up into the mountain; "
    "and all the ladies of the neighbourhood were astonished."
)

here = os.path.dirname(os.path.abspath(__file__))
folder = os.path.join(here, "..", "..", "data", "tiny-qwen35")

model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
input_ids = torch.tensor(list(PROMPT.encode()))
with torch.no_grad():
    logits = model(input_ids=input_ids[None], use_cache=False).logits[0]
note = (
    f"tests/data/make_qwen35_logits.py: transformers {transformers.__version__}, torch {torch.__version__}, "
    "float32 on the CPU"
)
save_file(
    {"input_ids": input_ids, "logits": logits.contiguous()},
    os.path.join(here, "qwen35_logits.safetensors"),
    metadata={"note": note},
)
print(note, tuple(logits.shape), file=sys.stderr)
