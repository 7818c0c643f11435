"""
Merge a LoRA adapter into its base model, so that the result runs without PEFT.

    iepile merge --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter \\
        --output_dir outputs/merged

The base is loaded in full precision even if the adapter was trained on a 4-bit one. The saved model answers sample
prompts, and the output folder is written only if the greedy answers equal those of base and adapter. In bfloat16,
rounding may change some of them: lower `--min_equal`, or give `--dtype float32`.
"""

from __future__ import annotations

import gc
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from iepile_builder.answers.scores import CALIBRATION
from iepile_builder.data.output import replace_folder
from iepile_builder.engines import ModelOptions
from iepile_builder.engines.agreement import AgreementOptions, count_equal, sample_requests
from iepile_builder.engines.loading import find_base, find_file
from iepile_builder.errors import InputError


@dataclass
class MergeOptions:
    """
    Output.

    Args:
        output_dir (`Path`):
            The folder to write.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace what an earlier run of this command wrote to the output folder.
        min_equal (`float`, *optional*, defaults to 1.0):
            Share of the answers that must be equal.
    """

    output_dir: Path
    overwrite: bool = False
    min_equal: float = 1.0


OPTIONS = (MergeOptions, ModelOptions, AgreementOptions)


def main(options: MergeOptions, model_options: ModelOptions, agreement: AgreementOptions) -> None:
    adapter, dtype = model_options.adapter_name_or_path, model_options.dtype
    if adapter is None:
        raise InputError("give --adapter_name_or_path")
    base = model_options.model_name_or_path or find_base(adapter)
    if Path(base).resolve() == options.output_dir.resolve():
        raise InputError(f"{base}: both the base model and the output folder; give another --output_dir")
    with replace_folder(options.output_dir, "merge", options.overwrite) as folder:
        from iepile_builder.chat import load_tokenizer
        from iepile_builder.engines.loading import find_weights, load_model, tokenizer_of, without_weight_bars
        from iepile_builder.engines.transformers import TransformersEngine

        base = find_weights(base)
        # Base and adapter, unmerged
        tokenizer = load_tokenizer(tokenizer_of(base, adapter), model_options.chat_template_path)
        model = load_model(base, adapter, dtype=dtype, device_map="auto").eval()
        if model.config.to_dict().get("quantization_config"):
            raise InputError(f"{base}: its weights are quantized: give the full-precision model that it was made from")
        engine = TransformersEngine(model, tokenizer, batch_size=agreement.batch_size)
        requests = sample_requests(agreement, engine)
        print(f"answering {len(requests)} prompts with base and adapter", file=sys.stderr)
        expected = engine.generate(requests, agreement.max_new_tokens)

        merged = model.merge_and_unload(safe_merge=True)
        # The adapter may have learned another end token than the base's
        merged.generation_config.eos_token_id = sorted(engine.end_tokens)
        with without_weight_bars():
            merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if (calibration := find_file(CALIBRATION, None, adapter)) is not None:
            shutil.copy(calibration, folder)
        del engine, model, merged
        gc.collect()

        # The merged model as it was saved
        model = load_model(str(folder), dtype=dtype, device_map="auto").eval()
        engine = TransformersEngine(model, load_tokenizer(str(folder)), batch_size=agreement.batch_size)
        print(f"answering {len(requests)} prompts with the merged model", file=sys.stderr)
        answers = engine.generate(requests, agreement.max_new_tokens)
        equal = count_equal(expected, answers)
        tokens = sum(len(tokenizer.encode(answer.text, add_special_tokens=False)) for answer in expected)
        report = f"{equal} of {len(requests)} greedy answers are equal ({tokens} tokens, {model.dtype})"
        if equal < options.min_equal * len(requests):
            raise InputError(
                f"only {report}: {options.output_dir} was not written; give --dtype float32, or lower --min_equal "
                f"({options.min_equal:g})"
            )
    print(f"{report}: {options.output_dir}")
