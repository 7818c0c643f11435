"""Cells of the check: a model of a real shape, trained for a few steps, decoded from, or passed through once."""

import gc
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import read_instruction
from iepile_builder.engines import attention
from iepile_builder.engines.base import Request
from iepile_builder.engines.decoding import GreedyDecoder
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.rows import Row
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.tasks import find_task
from iepile_builder.training.trainer import AnswerTrainer, compile_layers


CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s, bfloat16
# Architecture, vocabulary, width, layers, heads, heads of keys, size of a head, width of the MLP, whether head is tied
SIZES = {
    "m135": ("llama", 49152, 576, 30, 9, 3, 64, 1536, True),
    "q0.6": ("qwen3", 151936, 1024, 28, 16, 8, 128, 3072, True),
    "q4": ("qwen3", 151936, 2560, 36, 32, 8, 128, 9728, True),
    "q8": ("qwen3", 151936, 4096, 36, 32, 8, 128, 12288, False),
    "l13": ("llama", 32000, 5120, 40, 40, 40, 128, 13824, False),
    "tiny": ("llama", 49152, 32, 2, 2, 1, 16, 64, True),
}
# Model, all weights or LoRA, bits, attention, packs, checkpointing, longest row, rows a step, compiled layers
Cell = tuple[str, str, int | None, str, bool, bool, int, int, bool]
CELLS: list[Cell] = [
    ("m135", "lora", None, "varlen", True, False, 1024, 8, False),
    ("m135", "lora", None, "varlen", True, False, 1024, 8, True),
    ("m135", "full", None, "varlen", True, False, 1024, 8, True),
    ("q4", "lora", None, "varlen", True, True, 2048, 16, False),
    ("q8", "lora", None, "varlen", True, True, 2048, 8, False),
    ("q4", "lora", None, "varlen", True, True, 2048, 8, True),
    ("m135", "full", None, "varlen", True, False, 1024, 8, False),
    ("m135", "full", None, "varlen", True, False, 1024, 32, False),
    ("q0.6", "lora", None, "varlen", True, True, 2048, 4, False),
    ("q0.6", "lora", None, "sdpa", True, True, 2048, 4, False),
    ("q4", "lora", None, "varlen", True, True, 2048, 2, False),
    ("q4", "lora", None, "sdpa", True, True, 2048, 2, False),
    ("q4", "lora", 4, "varlen", True, True, 2048, 1, False),
    ("l13", "lora", None, "sdpa", False, True, 700, 2, False),
    ("q0.6", "full", None, "varlen", True, True, 2048, 4, False),
    ("q8", "lora", None, "varlen", True, True, 2048, 2, False),
    ("q4", "lora", None, "varlen", True, False, 2048, 2, False),
    ("q8", "lora", 4, "varlen", True, True, 2048, 1, False),
    ("l13", "lora", 8, "sdpa", False, True, 700, 2, False),
]
TINY: list[Cell] = [
    ("tiny", "lora", None, "varlen", True, True, 128, 2, False),
    ("tiny", "full", None, "sdpa", False, False, 128, 2, False),
]


def sync() -> None:
    if CUDA:
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if CUDA else None


def make(name: str, tokenizer: Any, dtype: torch.dtype = torch.bfloat16, attn: str = "sdpa") -> Any:
    """Make a model of random weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    kind, vocabulary, width, layers, heads, kv_heads, size, mlp, is_tied = SIZES[name]
    config = (LlamaConfig if kind == "llama" else Qwen3Config)(
        vocab_size=max(vocabulary, len(tokenizer)) if CUDA else len(tokenizer), hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=size,
        intermediate_size=mlp, tie_word_embeddings=is_tied, max_position_embeddings=8192, rms_norm_eps=1e-5,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    attention.register_varlen()
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn)


def make_folder(name: str, tokenizer: str, work: Path) -> Path:
    """Save a model of random weights with its tokenizer, as users have one."""
    folder = work / f"random_{name}"
    if not (folder / "config.json").exists():
        loaded = load_tokenizer(tokenizer)
        make(name, loaded).save_pretrained(folder)
        loaded.save_pretrained(folder)
        free()
    return folder


def make_rows(count: int, mean: int, vocabulary: int) -> Any:
    """Make rows about as long as IEPile's, most of 150 to 700 tokens, a fifth of them the answer."""
    from datasets import Dataset

    drawn = random.Random(0)
    rows: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
    for _ in range(count):
        length = int(min(1500, max(20, drawn.lognormvariate(5.8, 0.45) * mean / 360)))
        ids = [drawn.randrange(10, vocabulary) for _ in range(length)]
        asked = int(length * 0.8)
        for name, value in (("input_ids", ids), ("labels", [-100] * asked + ids[asked:]), ("length", length)):
            rows[name].append(value)
    return Dataset.from_dict(rows)


def estimate_memory(cell: Cell, lora_weights: int) -> tuple[float, int]:
    """Estimate GB as recipes/README.md does; the second is the number of weights of the linear layers."""
    name, how, bits, _, _, _, max_length, batch, _ = cell
    _, vocabulary, width, layers, heads, kv_heads, size, mlp, is_tied = SIZES[name]
    linear = layers * (2 * width * heads * size + 2 * width * kv_heads * size + 3 * width * mlp)
    embeddings = vocabulary * width * (1 if is_tied else 2)
    activations = max_length * batch * (2 * width * layers + 40 * width + 16 * mlp)
    if how == "full":
        return (16 * (linear + embeddings) + activations) / 1e9, linear
    base = {None: 2, 4: 0.52, 8: 1}[bits] * linear + 2 * embeddings
    return (base + lora_weights * (8 if bits else 16) + activations) / 1e9, linear


def measure_training(results: Any, tokenizer_name: str, work: Path, until: float, tiny: bool) -> None:
    """Train each cell for a few steps; add useful tokens a second, their share of the peak, and memory."""
    tokenizer = load_tokenizer(tokenizer_name)
    rows = make_rows(60 if tiny else 900, 40 if tiny else 380, min(30_000, len(tokenizer)))
    for cell in TINY if tiny else CELLS:
        name, how, bits, attn, packs, checkpointing, max_length, batch, compiled = cell
        label = f"{name} {how}{f' {bits} bits' if bits else ''} {attn} {'packs' if packs else 'padded'}"
        label += f"{' checkpointing' if checkpointing else ''}{' compiled' if compiled else ''} {batch} x {max_length}"
        if not results.wants(label):
            continue
        if time.time() > until:
            results.add("train", label, error="not run: no time left")
            continue
        free()
        try:
            results.add("train", label, **train_cell(cell, tokenizer, tokenizer_name, rows, work))
        except Exception as error:  # which one is the result
            results.fail("train", label, error)


def train_cell(cell: Cell, tokenizer: Any, tokenizer_name: str, rows: Any, work: Path) -> dict[str, Any]:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    name, how, bits, attn, packs, checkpointing, max_length, batch, compiled = cell
    untimed, timed = (3, 4) if CUDA else (1, 1)
    dtype = torch.float32 if how == "full" else torch.bfloat16
    if bits:
        quantization = BitsAndBytesConfig(
            load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_storage=torch.bfloat16,
        )  # fmt: skip
        folder = str(make_folder(name, tokenizer_name, work))
        model = load_model(
            folder, dtype=dtype, attn_implementation=attn, device_map={"": torch.device(DEVICE, 0)},
            quantization_config=quantization,
        )  # fmt: skip
    else:
        model = make(name, tokenizer, dtype, attn)

    class Timed(AnswerTrainer):
        useful, started = 0, 0.0

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            if self.state.global_step == untimed and not self.started:
                sync()
                self.started = time.perf_counter()
            if self.started:
                mask = inputs.get("attention_mask")
                self.useful += inputs["input_ids"].numel() if mask is None else int(mask.sum())
            return super().training_step(model, inputs, *rest, **more)

    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Timed(
        model=model,
        args=SFTConfig(
            output_dir=str(work / "cell"), max_steps=untimed + timed, per_device_train_batch_size=batch, packing=packs,
            packing_strategy="bfd", max_length=max_length, bf16=True, activation_checkpointing=checkpointing,
            learning_rate=1e-5, logging_steps=1, save_strategy="no", report_to="none", use_cpu=not CUDA,
            disable_tqdm=True,
        ),
        train_dataset=rows.filter(lambda length: length <= max_length, input_columns="length"),
        processing_class=tokenizer,
        peft_config=None if how == "full" else lora,
    )  # fmt: skip
    if compiled:
        compile_layers(trainer.model)
    weights = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    trainer.train()
    sync()
    seconds = time.perf_counter() - trainer.started
    estimate, linear = estimate_memory(cell, weights)
    flops = (6 if how == "full" else 4) * linear * trainer.useful / seconds
    peak = next((value for card, value in PEAK.items() if CUDA and card in torch.cuda.get_device_name()), None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.accelerator.free_memory()
    return {
        "useful_tokens_s": round(trainer.useful / seconds), "step_ms": round(1000 * seconds / timed),
        "mfu_percent": peak and round(100 * flops / peak, 1), "peak_gb": peak_gb(), "readme_gb": round(estimate, 1),
        "losses": [round(losses[0], 3), round(losses[-1], 3)],
    }  # fmt: skip


def measure_passes(results: Any, tokenizer_name: str, until: float, tiny: bool) -> None:
    """Measure a pass of the decoder: some new tokens of each row over many that are cached."""
    tokenizer = load_tokenizer(tokenizer_name)
    for name in ["tiny"] if tiny else ["m135", "q4", "q8"]:
        free()
        model = make(name, tokenizer).eval()
        for count, context in [(2, 16)] if tiny else [(1, 512), (16, 512), (64, 512), (128, 512)]:
            for width in (1, 2) if tiny else (1, 4, 9):
                label = f"{name}: {count} rows x {width} over {context}"
                if not results.wants(label):
                    continue
                if time.time() > until:
                    results.add("passes", label, error="not run: no time left")
                    continue
                try:
                    ms = time_pass(model, count, context, width, 3 if tiny else 8)
                    results.add("passes", label, ms=ms, peak_gb=peak_gb())
                except Exception as error:  # which one is the result
                    results.fail("passes", label, error)
        del model


@torch.no_grad()
def time_pass(model: Any, count: int, context: int, width: int, times: int) -> float:
    decoder = GreedyDecoder(model, {2}, 64, count)
    cache, mask = decoder.fill([()] * count)
    prompt = [*range(10, 10 + context)]
    rows = [Row(prompt) for _ in range(count)]
    _, mask = decoder.forward(cache, mask, rows, [prompt] * count, [range(0)] * count)
    seconds = []
    for number in range(times):
        for row in rows:
            row.computed = context + number * width
        sync()
        start = time.perf_counter()
        logits, mask = decoder.forward(cache, mask, rows, [[11] * width] * count, [range(width)] * count)
        logits.argmax(dim=-1).tolist()
        seconds.append(time.perf_counter() - start)
    return round(1000 * sorted(seconds[1:])[(times - 1) // 2], 2)


def measure_answers(results: Any, folder: Path, data: Path, until: float, tiny: bool) -> None:
    """Answer the training instances in several ways; add answers a second, and how many equal the first way's."""
    splits = load_instances(str(data), ("instruction", "output"))
    instances = list(splits["train"])[: 4 if tiny else None]
    limit, many = (8, 2) if tiny else (128, 128)
    tokenizer = load_tokenizer(str(folder))
    # Each once: a prompt that was answered before would be drafted from its own answer
    distinct = {instance["instruction"]: instance for split in splits.values() for instance in split}
    measure_given_answers(results, list(distinct.values())[: 4 if tiny else None], tokenizer, until, tiny)
    requests = [to_request(instance) for instance in instances]
    for dtype in ("bfloat16", "float32"):
        free()
        model = load_model(str(folder), dtype=dtype, device_map={"": DEVICE}).eval()
        ways: dict[str, Callable[[list[Request]], list[str]]] = {
            f"{many} at a time, no drafts, no shared prefixes": answer(
                model, tokenizer, limit, many, lookup=False, share_prefix=False, constrain="off"
            ),
            f"{many} at a time": answer(model, tokenizer, limit, many, constrain="off"),
            "16 at a time": answer(model, tokenizer, limit, 16, constrain="off"),
            f"{many} at a time, constrained": answer(model, tokenizer, limit, many, constrain="on"),
        }
        if CUDA:
            ways["transformers' continuous batching"] = continuous(model, tokenizer, limit)
        first: list[str] | None = None
        for way, ask in ways.items():
            texts = measure_way(results, f"{dtype}: {way}", ask, requests, instances, first, until)
            first = first or texts
        del model, ways


def measure_given_answers(
    results: Any, instances: list[dict[str, Any]], tokenizer: Any, until: float, tiny: bool
) -> None:
    """
    Answer with models that are too large to train here: of random weights, and with logits that are raised where the
    reference answer has its next token. The passes, drafts and masks are those of a model that knows the answers.
    """
    requests = [to_request(instance) for instance in instances]
    forward = GreedyDecoder.forward
    for name in ["tiny"] if tiny else ["q4", "q8"]:
        ways = {"": "off", ", constrained": "on"}
        if not any(results.wants(f"{name}, given answers{way}") for way in ways):
            continue
        free()
        model = make(name, tokenizer).eval()
        for way, constrain in ways.items():
            engine = TransformersEngine(model, tokenizer, None if CUDA else 2, constrain=constrain)
            known = {}
            for request, instance in zip(requests, instances, strict=True):
                prompt = engine.prompt_ids(request)
                told = tokenizer(instance["output"], add_special_tokens=False)["input_ids"]
                known[tuple(prompt)] = [*prompt, *told, tokenizer.eos_token_id]

            def steered(
                self: Any, cache: Any, mask: Any, rows: Any, feeds: Any, asked: Any, known: Any = known
            ) -> Any:
                logits, mask = forward(self, cache, mask, rows, feeds, asked)
                wanted = []
                for row, places in zip(rows, asked, strict=True):
                    told = known.get(tuple(row.tokens[: row.start]), [0])
                    wanted += [told[min(row.computed + place + 1, len(told) - 1)] for place in places]
                if wanted:
                    logits[torch.arange(len(wanted)), torch.tensor(wanted)] += 1000
                return logits, mask

            def ask(requests: list[Request], engine: Any = engine) -> list[str]:
                return [completion.text for completion in engine.generate(requests, 8 if tiny else 256)]

            GreedyDecoder.forward = steered  # type: ignore[method-assign]
            try:
                measure_way(results, f"{name}, given answers{way}", ask, requests, instances, None, until)
            finally:
                GreedyDecoder.forward = forward  # type: ignore[method-assign]
        del model, engine, ask


def measure_way(
    results: Any,
    cell: str,
    ask: Callable[[list[Request]], list[str]],
    requests: list[Request],
    instances: list[dict[str, Any]],
    first: list[str] | None,
    until: float,
) -> list[str] | None:
    if not results.wants(cell):
        return None
    if time.time() > until:
        results.add("decode", cell, error="not run: no time left")
        return None
    free()
    try:
        ask(requests[:2])
        sync()
        start = time.perf_counter()
        texts = ask(requests)
        sync()
        seconds = time.perf_counter() - start
        results.add(
            "decode", cell, answers_s=round(len(texts) / seconds, 1), peak_gb=peak_gb(), answers=len(texts),
            equal=sum(one == other for one, other in zip(texts, first or texts, strict=True)),
            right=sum(text == instance["output"] for text, instance in zip(texts, instances, strict=True)),
        )  # fmt: skip
    except Exception as error:  # which one is the result
        results.fail("decode", cell, error)
        return None
    return texts


def to_request(instance: dict[str, Any]) -> Request:
    schema = find_task(instance["task"]).answer_schema(read_instruction(instance["instruction"])["schema"])
    return Request(to_prompt(instance), schema)


def answer(model: Any, tokenizer: Any, limit: int, batch: int, **options: Any) -> Callable[[list[Request]], list[str]]:
    engine = TransformersEngine(model, tokenizer, batch, **options)
    return lambda requests: [completion.text for completion in engine.generate(requests, limit)]


def continuous(model: Any, tokenizer: Any, limit: int) -> Callable[[list[Request]], list[str]]:
    from transformers import GenerationConfig

    engine = TransformersEngine(model, tokenizer, constrain="off")
    end = sorted(engine.end_tokens)
    config = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=end[0])

    def ask(requests: list[Request]) -> list[str]:
        ids = [engine.prompt_ids(request) for request in requests]
        outputs = model.generate_batch(inputs=ids, generation_config=config).values()
        return [tokenizer.decode(output.generated_tokens, skip_special_tokens=True) for output in outputs]

    return ask
