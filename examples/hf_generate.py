#!/usr/bin/env python3
"""Text from a Qwen3.5 or Qwen3-Next model of Hugging Face with gdn's operators in it, as it is made.

    examples/hf_generate.py --prompt "And it came to pass" --temperature 0.8 --seed 1
    examples/hf_generate.py --stock            the same by transformers' own code

Needs the extra gdn[transformers]. The text goes to stdout, the speed to stderr.
"""

import argparse
import os
import pathlib
import sys
import time

SHIPPED = pathlib.Path(__file__).resolve().parents[1] / "data" / "tiny-qwen35"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(SHIPPED), help="a folder, or a name on the Hub")
    parser.add_argument("--prompt", default="And it came to pass")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0, help="0: the likeliest token")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--stock", action="store_true", help="transformers' own code")
    options = parser.parse_args()

    if pathlib.Path(options.model).is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing to fetch
    import torch
    import transformers

    from gdn.integrations.transformers import enable

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, options.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    if not options.stock:
        enable(model)

    inputs = tokenizer(options.prompt, return_tensors="pt")
    how = dict(do_sample=False)
    if options.temperature > 0:
        torch.manual_seed(options.seed)
        how = dict(do_sample=True, temperature=options.temperature, top_k=0, top_p=1.0)
    start = time.perf_counter()
    made = model.generate(
        **inputs,
        **how,
        max_new_tokens=options.max_new_tokens,
        streamer=transformers.TextStreamer(tokenizer, skip_special_tokens=True),
    )
    seconds = time.perf_counter() - start
    count = made.shape[1] - inputs.input_ids.shape[1]
    print(f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    main()
