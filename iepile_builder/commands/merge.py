"""
Merges a LoRA adapter into its base model, so that the result runs without PEFT, and checks on sample prompts that the
merged model, as it was saved, gives the same greedy answers as base and adapter.

```bash
python scripts/merge_adapter.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/adapter \
    --output_dir outputs/merged
```

The base is loaded in full precision also where the adapter was trained on a 4-bit one. The folder gets its name only
if the answers are equal; in bfloat16 rounding may change some of them: allow for it with `--min_equal`, or give
`--dtype float32`. Arguments can also stand in a YAML file, given with `--config`.
"""

import gc
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from iepile_builder.errors import InputError


def main(args: Namespace) -> None:
    output_dir = Path(args.output_dir)
    if output_dir.exists():
        raise InputError(f"{output_dir} exists already: give another --output_dir, or delete it")

    from transformers.utils.hub import has_file

    from iepile_builder.chat import load_tokenizer
    from iepile_builder.engines.agreement import count_equal, sample_requests
    from iepile_builder.engines.loading import load_model
    from iepile_builder.engines.transformers import TransformersEngine

    base, adapter = args.model_name_or_path, args.adapter_name_or_path

    # Base and adapter, each by itself
    with_tokenizer = has_file(adapter, "tokenizer_config.json")
    tokenizer = load_tokenizer(adapter if with_tokenizer else base, args.chat_template_path)
    model = load_model(base, adapter, dtype=args.dtype, device_map="auto").eval()
    if model.config.to_dict().get("quantization_config"):
        raise InputError(f"{base}: its weights are quantized: give the model in full precision that it was made from")
    engine = TransformersEngine(model, tokenizer, batch_size=args.batch_size)
    requests = sample_requests(args.dataset, args.num_samples, engine, args.max_new_tokens)
    print(f"answering {len(requests)} prompts with base and adapter", file=sys.stderr)
    expected = engine.generate(requests, args.max_new_tokens)

    # The merged model
    merged = model.merge_and_unload(safe_merge=True)
    # The end token that the adapter has learned may not be the one that the base ends on.
    merged.generation_config.eos_token_id = sorted(engine.end_tokens)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".merging-") as temporary:
        folder = Path(temporary, "model")
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del engine, model, merged
        gc.collect()

        # What was saved
        model = load_model(str(folder), dtype=args.dtype, device_map="auto").eval()
        engine = TransformersEngine(model, load_tokenizer(str(folder)), batch_size=args.batch_size)
        print(f"answering {len(requests)} prompts with the merged model", file=sys.stderr)
        answers = engine.generate(requests, args.max_new_tokens)
        equal = count_equal(expected, answers)
        tokens = sum(len(tokenizer.encode(answer.text, add_special_tokens=False)) for answer in expected)
        report = f"{equal} of {len(requests)} greedy answers are equal ({tokens} tokens, {model.dtype})"
        if equal < args.min_equal * len(requests):
            raise InputError(
                f"only {report}: {output_dir} was not written; give --dtype float32, or a lower --min_equal than "
                f"{args.min_equal:g}"
            )
        folder.rename(output_dir)
    print(f"{report}: {output_dir}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of arguments")
    parser.add_argument("--model_name_or_path", type=str, required=True, help="folder or Hub id of the base model")
    parser.add_argument("--adapter_name_or_path", type=str, required=True, help="folder or Hub id of the adapter")
    parser.add_argument("--output_dir", type=str, required=True, help="folder to write")
    parser.add_argument("--chat_template_path", type=str | None, help="Jinja file in place of the tokenizer's own")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="precision to merge and save in; auto: that of the base",
    )
    parser.add_argument(
        "--dataset", type=str | None, help="instances to compare answers on, by default those of the sample corpus"
    )
    parser.add_argument("--num_samples", type=int, default=16, help="prompts to compare answers on")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="longest answer that is compared, in tokens")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts answered at once")
    parser.add_argument("--min_equal", type=float, default=1.0, help="share of the answers that must be equal")
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
