"""examples/qwen35, the model in C++, against transformers: the logits of every token of a prompt.

GDN_BUILD_DIR is the CMake build that has the program; scripts/test sets it.
"""

import os
import pathlib
import subprocess

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")
import models  # noqa: E402

# Of logits of the order of 1 (random) and 10 (shipped). On the random models transformers in
# float32 differs from itself in float64 by 2e-6 to 3e-5.
LOGITS = 1e-4

CONFIGURATIONS = {
    "three value heads for a key head, full attention first": dict(
        num_hidden_layers=5,
        layer_types=[
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
        ],
        num_attention_heads=6,
        linear_num_value_heads=6,
        linear_value_head_dim=48,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5),
    ),
    "a full layer in three, as many value heads as key heads, tied": dict(
        num_hidden_layers=6,
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
        hidden_size=96,
        num_key_value_heads=4,
        linear_num_key_heads=3,
        linear_num_value_heads=3,
        linear_key_head_dim=32,
        linear_value_head_dim=96,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6, partial_rotary_factor=1.0),
    ),
    "linear layers alone, one key head, a convolution of 3": dict(
        num_hidden_layers=3,
        layer_types=["linear_attention"] * 3,
        vocab_size=259,
        intermediate_size=200,
        linear_num_key_heads=1,
        linear_num_value_heads=8,
        linear_key_head_dim=128,
        linear_value_head_dim=64,
        linear_conv_kernel_dim=3,
    ),
}


@pytest.fixture(scope="module")
def program():
    folder = os.environ.get("GDN_BUILD_DIR")
    if not folder:
        pytest.skip("GDN_BUILD_DIR is not set: the CMake build with examples/qwen35, as build/ci")
    program = pathlib.Path(folder, "examples", "qwen35", "qwen35").resolve()
    assert program.exists(), f"{program} is missing: cmake --build {folder} --target qwen35"
    return program


def assert_same_logits(program, model, folder, ids, tmp_path):
    file = tmp_path / "logits.safetensors"
    prompt = ",".join(map(str, ids[0].tolist()))
    arguments = [
        "--model",
        folder,
        "--tokens",
        prompt,
        "--max-new-tokens",
        "0",
        "--threads",
        "1",
        "--logits",
        file,
    ]
    subprocess.run([program, *arguments], check=True, capture_output=True)
    found = load_file(file)
    assert torch.equal(found["input_ids"].flatten(), ids[0])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[
            0
        ]  # transformers' cache wants a layer of full attention
    assert logits.std() > 0.5, "logits of nearly zero show nothing"
    difference = (found["logits"] - logits).abs().max().item()
    assert difference < LOGITS, f"logits differ by {difference:.2e}"


@pytest.mark.parametrize("tokens", [1, 300, 1100])
def test_logits_of_the_shipped_model(program, tokens, tmp_path):
    text = (models.SHIPPED / "README.md").read_bytes().split(b"## Samples")[1]  # of its own making
    ids = torch.tensor([list(text[:tokens])])
    assert ids.shape == (1, tokens)
    assert_same_logits(program, models.shipped(), models.SHIPPED, ids, tmp_path)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_of_random_models(program, name, tmp_path):
    model = models.qwen35(**CONFIGURATIONS[name])
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, model.config.vocab_size, (1, 300))
    assert_same_logits(program, model, tmp_path, ids, tmp_path)
