"""
Measure one call of `Extractor` for a short text and four labels, and what packed weights and kept prefixes give.

    OMP_NUM_THREADS=1 python benchmarks/one_text.py

With `--torchao` (`pip install torchao`), also weights of 8 bits.

The shipped model, the texts of the sample corpus, CPU seconds. Every text is asked of all variants in turn, so that
the load of the machine is the same for each; intervals are a bootstrap over texts.
"""

import copy
import json
import time
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser

from iepile_builder import Extractor
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.loading import load_model, shipped_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.io import SAMPLE_CORPUS


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--labels", type=list[str], default=["person", "company", "city", "date"])
    parser.add_argument("--max_samples", type=int, default=200)
    parser.add_argument("--torchao", action="store_true")
    arguments = parser.parse_args()
    model, adapter = shipped_model()
    plain: Any = load_model(model, adapter)
    plain = plain.merge_and_unload().eval()
    for weight in plain.parameters():
        weight.data = weight.data.clone()
    kept = Extractor.from_pretrained()
    engine: Any = kept.engine
    variants: dict[str, Extractor] = {
        "plain": Extractor(TransformersEngine(plain, load_tokenizer(model))),
        "packed weights": Extractor(TransformersEngine(engine.model, engine.tokenizer)),
        "packed weights, kept prefixes": kept,
    }
    if arguments.torchao:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        eight = copy.deepcopy(plain)
        quantize_(eight, Int8WeightOnlyConfig())
        variants["8-bit weights of torchao"] = Extractor(TransformersEngine(eight, load_tokenizer(model)))
    lines = [
        line for file in sorted(SAMPLE_CORPUS.glob("IE-en/*/*/test.json")) for line in file.open(encoding="utf-8")
    ]
    texts = [json.loads(line)["text"] for line in lines][: arguments.max_samples]
    for extract in variants.values():
        extract(texts[0], "NER", arguments.labels)
    seconds = np.zeros((len(variants), len(texts)))
    facts: list[list[Any]] = [[] for _ in variants]
    for column, text in enumerate(texts):
        for row, extract in enumerate(variants.values()):
            start = time.process_time()
            result = extract(text, "NER", arguments.labels)
            seconds[row, column] = time.process_time() - start
            facts[row].append(result.facts)
    draws = np.random.default_rng(0).integers(len(texts), size=(2000, len(texts)))
    print("| | CPU s, mean | median | of plain | equal facts |\n|---|---|---|---|---|")
    for row, name in enumerate(variants):
        ratio = seconds[row].sum() / seconds[0].sum()
        low, high = np.quantile(seconds[row][draws].sum(1) / seconds[0][draws].sum(1), [0.025, 0.975])
        equal = sum(mine == first for mine, first in zip(facts[row], facts[0], strict=True))
        times = f"{seconds[row].mean():.3f} | {np.median(seconds[row]):.3f} | {ratio:.2f} [{low:.2f}, {high:.2f}]"
        print(f"| {name} | {times} | {equal}/{len(texts)} |")
    print(f"\n{len(texts)} texts, {np.mean([len(text) for text in texts]):.0f} characters; torch {torch.__version__}")


if __name__ == "__main__":
    main()
