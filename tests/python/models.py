"""Models of Hugging Face's transformers: the shipped one, and random ones like trained ones.

transformers' own initial weights make logits of nearly zero, of which anything is within a
tolerance. Here matrices keep the size of what they multiply, decays reach from nearly none to
nearly all within a few tokens, and logits are of the order of 1 to 10.
"""

import math
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

SHIPPED = pathlib.Path(__file__).parents[2] / "data" / "tiny-qwen35"


def shipped(dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=dtype).eval()


def shipped_tokenizer():
    return transformers.AutoTokenizer.from_pretrained(SHIPPED)


_SMALL = dict(
    vocab_size=101,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=64,
    linear_value_head_dim=64,
    tie_word_embeddings=False,
    pad_token_id=0,
    eos_token_id=None,
    bos_token_id=None,
)
# Every token goes to all experts: a choice among them would turn a last bit into another logit.
_EXPERTS = dict(
    num_experts=4,
    num_experts_per_tok=4,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
)


def qwen35(**changes):
    """A random Qwen3.5 text model; `changes` of the configuration."""
    return _random(transformers.Qwen3_5TextConfig(**{**_SMALL, **changes}))


def qwen35_moe(**changes):
    return _random(transformers.Qwen3_5MoeTextConfig(**{**_SMALL, **_EXPERTS, **changes}))


def qwen3_next(**changes):
    return _random(transformers.Qwen3NextConfig(**{**_SMALL, **_EXPERTS, **changes}))


def _random(config):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _fill(name, weight, config)
    return model


def _fill(name, weight, config):
    kind = name.split(".")[-1]
    if kind == "A_log":
        weight.copy_(torch.empty_like(weight).uniform_(1, 16).log())
    elif kind == "dt_bias":
        # Steps from 1e-3 to 1e-1, as Mamba-2 and Gated DeltaNet start from.
        step = torch.empty_like(weight).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        weight.copy_(step + torch.log(-torch.expm1(-step)))
    elif "conv1d" in name:
        weight.normal_(std=weight.shape[-1] ** -0.5)
    elif "embed_tokens" in name:
        # Tied, it is the output matrix too.
        weight.normal_(std=weight.shape[-1] ** -0.5 if config.tie_word_embeddings else 1)
    elif "linear_attn.norm" in name:
        weight.normal_(1, 0.1)
    elif "norm" in name:
        weight.normal_(0, 0.1)  # of which 1 + weight is taken
    else:
        weight.normal_(std=weight.shape[-1] ** -0.5)
        if kind in _INTO_RESIDUAL or name.split(".")[-2] in _INTO_RESIDUAL:
            # What adds to the residual stream, as GPT-2 and Megatron start it.
            weight.mul_((2 * config.num_hidden_layers) ** -0.5)


_INTO_RESIDUAL = ("out_proj", "o_proj", "down_proj")
