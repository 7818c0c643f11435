"""
Answers the instances of a dataset with a model, greedily and in batches, and writes them with the model's text in
`output`; the reference answer, where there is one, moves to `reference`.

```bash
python scripts/predict.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/smollm2-135m-iepile \
    --dataset data/iepile --split test \
    --output_file outputs/predictions.jsonl
```

Lines come in the order of the input, a window of them as soon as it is answered. Stopped at any time, the same command
goes on where it was. Under `accelerate launch` or `torchrun` the processes share the windows. Where `llguidance` is
installed, answers are held to the schema that they were asked for, so that they are always valid. With `--vllm` vLLM
runs the model, with `--endpoint http://127.0.0.1:8000/v1` a server that speaks the OpenAI chat API. Arguments can also
stand in a YAML file, given with `--config`.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.predict", run_name="__main__")
