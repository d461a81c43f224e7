"""Times greedy decoding of one random GPT-2 on the CPU: oxigpt, CTranslate2 and transformers in turn, one text or some side by side.

All sides read the same Hugging Face directory, which this script makes, continue the same prompt by the same number of tokens,
and never stop early. Time is that of a whole generation, prompt included, the model being loaded: for oxigpt what
`oxigpt sample --json` says of itself. The first generation of a side is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
PROMPT = " the" * 32
SIDES = ["oxigpt-float32", "oxigpt-bfloat16", "oxigpt-int8", "ctranslate2-float32", "ctranslate2-int8",
         "ctranslate2-int8_float32", "transformers-float32", "transformers-bfloat16"]


def make_model(directory: Path, size: str):
    """A random GPT-2 with GPT-2's vocabulary, and the words of the prompt."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1337)
    n_layer, n_head, n_embd = SIZES[size]
    config = GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd, eos_token_id=None, bos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(directory)


def convert(directory: Path, target: Path):
    """The same model in CTranslate2's format; words are named by their numbers, because no text is needed."""
    from ctranslate2.converters import TransformersConverter

    class Numbered(TransformersConverter):
        def load_tokenizer(self, *_args, **_kwargs):
            class Words:
                unk_token = bos_token = eos_token = "<|endoftext|>"

                def get_vocab(self):
                    words = {str(i): i for i in range(50256)}
                    return words | {"<|endoftext|>": 50256}

                def __len__(self):
                    return 50257

            return Words()

    Numbered(str(directory)).convert(str(target), force=True)


def oxigpt(args, dtype):
    command = [args.oxigpt, "sample", f"--from={args.model}", f"--start={PROMPT}", "--temperature=0", f"--dtype={dtype}",
               f"--num-samples={args.texts}", f"--max-new-tokens={args.tokens}", f"--threads={args.threads}", "--json"]

    def run():
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        assert result["tokens"] == args.texts * args.tokens
        return result["tokens_per_s"]

    return run


def ctranslate2(args, dtype):
    import ctranslate2 as library

    target = Path(args.model).with_suffix(".ct2")
    if not target.exists():
        convert(Path(args.model), target)
    generator = library.Generator(str(target), device="cpu", compute_type=dtype, intra_threads=args.threads, inter_threads=1)
    prompts = [[str(token) for token in [262] * 32]] * args.texts

    def run():
        began = time.perf_counter()
        results = generator.generate_batch(prompts, max_length=args.tokens, min_length=args.tokens, sampling_topk=1,
                                           beam_size=1, include_prompt_in_result=False, end_token=[])
        seconds = time.perf_counter() - began
        assert all(len(result.sequences[0]) == args.tokens for result in results)
        return args.texts * args.tokens / seconds

    return run


def transformers(args, dtype):
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(args.threads)
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=getattr(torch, dtype)).eval()
    prompt = torch.full((args.texts, 32), 262)

    def run():
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=50256,
                                 max_new_tokens=args.tokens, min_new_tokens=args.tokens)
        seconds = time.perf_counter() - began
        assert out.shape == (args.texts, 32 + args.tokens)
        return args.texts * args.tokens / seconds

    return run


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--oxigpt", default="target/release/oxigpt", metavar="FILE")
    p.add_argument("--model", metavar="DIR", help="where the random model is, or shall be made [default: a temporary directory]")
    p.add_argument("--size", choices=SIZES, default="gpt2")
    p.add_argument("--texts", type=int, default=1, help="texts side by side")
    p.add_argument("--tokens", type=int, default=200, help="new tokens of each")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    with tempfile.TemporaryDirectory() as temporary:
        args.model = args.model or str(Path(temporary, "model"))
        if not Path(args.model, "config.json").exists():
            make_model(Path(args.model), args.size)
        makers = {"oxigpt": oxigpt, "ctranslate2": ctranslate2, "transformers": transformers}
        sides = {}
        for side in args.sides:
            name, dtype = side.split("-", 1)
            sides[side] = makers[name](args, dtype)
            sides[side]()
        rates = {side: [] for side in sides}
        for i in range(args.rounds):
            for side, run in sides.items():
                rates[side].append(run())
                print(f"round {i + 1}/{args.rounds}  {side:26} {rates[side][-1]:8.1f} tokens/s", file=sys.stderr)
    result = {side: {"tokens_per_s": median(of), "min": min(of), "max": max(of)} for side, of in rates.items()}
    if args.json:
        print(json.dumps({"texts": args.texts, "tokens": args.tokens, "threads": args.threads, "sides": result}))
        return
    for side, of in result.items():
        print(f"{side:26} {of['tokens_per_s']:8.1f} tokens/s   ({of['min']:.1f} to {of['max']:.1f})")


if __name__ == "__main__":
    main()
