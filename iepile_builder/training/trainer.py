"""Load the model to train, and train it with TRL's trainer, a cheaper loss on CPUs, and IE F1 at evaluations."""

from __future__ import annotations

import math
import os
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy
from transformers.training_args import ParallelMode
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import GRPOConfig, GRPOTrainer, ModelConfig, SFTConfig, SFTTrainer, get_quantization_config
from trl.models import unwrap_model_for_generation

from iepile_builder.chat import Message, encode, render, to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.decoding import PassCost
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.errors import InputError
from iepile_builder.training.data import Questions
from iepile_builder.training.draws import DRAW
from iepile_builder.training.labels import EMPTY


def set_up_processes(args: TrainingArguments) -> None:
    """
    Train on one GPU in each process, whichever others the machine has; say so if it only emulates bfloat16.

    Raises:
        `InputError`: If `accelerate launch` started one process instead of several, as on CPUs without MPI.
    """
    if PartialState().num_processes == 1 and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "several processes were asked for, but accelerate started one, as it does on CPUs: use `torchrun "
            "--standalone --nproc_per_node 2 -m iepile_builder.commands.train --use_cpu --ddp_backend gloo ...`, or "
            "num_processes: 1"
        )
    # PyTorch and transformers take an emulated one for supported
    if args.bf16 and args.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        PartialState().print(
            "this GPU only emulates bfloat16, and has no flash attention for packs; options that suit it: "
            "--bf16 false --fp16 true --dtype float32 (QLoRA: float16) --packing false"
        )
    if args.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
        args._n_gpu = 1  # else the other GPUs of the machine would mean `DataParallel`, which TRL refuses


def keep_best(args: TrainingArguments) -> None:
    """Evaluate whenever a checkpoint is saved and keep the one with the best IE F1, unless the options differ."""
    if args.eval_strategy == "no":
        if args.save_strategy in ("no", "best"):
            raise InputError("--ie_f1_records: nothing says when to evaluate: give --eval_strategy steps")
        args.eval_strategy, args.eval_steps = IntervalStrategy(args.save_strategy), args.save_steps
    matching = args.eval_strategy == args.save_strategy and args.eval_steps == args.save_steps
    if args.metric_for_best_model is None and matching:
        args.metric_for_best_model, args.greater_is_better, args.load_best_model_at_end = "ie_f1", True, True
    elif args.metric_for_best_model is None:
        PartialState().print("IE F1 is reported only: to keep the best checkpoint, evaluate whenever one is saved")


def keep_checkpoints(args: TrainingArguments, count: int) -> None:
    """Keep as many checkpoints as are averaged, or raise an `InputError` if they cannot be."""
    if args.save_strategy in ("no", "best") or args.load_best_model_at_end:
        raise InputError("--average_checkpoints needs --save_strategy steps or epoch, and does not keep the best one")
    if args.fsdp or args.deepspeed or PartialState().distributed_type in ("FSDP", "DEEPSPEED"):
        raise InputError("--average_checkpoints: not with FSDP or DeepSpeed")
    if args.save_total_limit is not None:
        args.save_total_limit = max(args.save_total_limit, count)


def load_trainable(
    model_args: ModelConfig, training_args: SFTConfig | GRPOConfig, adapter: str | None
) -> PreTrainedModel | PeftModel:
    """
    Load the model to train, with the adapter to continue if there is one; onto the GPU of the process, unless several
    share it.

    `ddp_find_unused_parameters` is set if it is `None`: the search takes time and prints a long warning, and most
    models use all weights in every step.

    Raises:
        `InputError`: If an adapter is trained with FSDP's own activation checkpointing: PEFT 0.21 saves none of its
            weights, whose names then differ from those of their layers.
    """
    by_fsdp = parse_flag_from_env("ACCELERATE_USE_FSDP") and parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING")
    by_fsdp = by_fsdp or (training_args.fsdp_plugin_args or {}).get("activation_checkpointing")
    if by_fsdp and (adapter is not None or model_args.use_peft):
        raise InputError(
            "with FSDP's own activation checkpointing the adapter would be saved empty: set "
            "fsdp_activation_checkpointing to false, and give --activation_checkpointing true"
        )
    deepspeed = training_args.deepspeed_plugin
    is_sharded = deepspeed is not None or parse_flag_from_env("ACCELERATE_USE_FSDP") or training_args.fsdp
    has_gpu = training_args.device.type != "cpu"
    quantization = get_quantization_config(model_args)
    model = load_model(
        model_args.model_name_or_path,
        adapter,
        is_trainable=True,
        # ZeRO-3 gathers weights of one type: a float32 adapter on a bfloat16 base ends its first step.
        autocast_adapter_dtype=deepspeed is None or deepspeed.zero_stage != 3 or quantization is not None,
        device_map={"": training_args.device} if has_gpu and not is_sharded else None,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
        trust_remote_code=training_args.trust_remote_code,
    )
    config = model.config
    has_other_inputs = config.get_text_config() is not config  # text does not use their towers
    has_experts = any("expert" in key for key in config.to_dict())  # a batch may use only some experts
    if training_args.ddp_find_unused_parameters is None and not has_other_inputs and not has_experts:
        training_args.ddp_find_unused_parameters = False
    return model


def freeze_all_but_linear(model: Any) -> None:
    """Leave embeddings, head and norms of a model as they are in training: what no adapter of low rank holds."""
    head = model.get_output_embeddings()
    for module in model.modules():
        is_trained = isinstance(module, torch.nn.Linear) and module is not head
        for weight in module.parameters(recurse=False):
            weight.requires_grad = is_trained


def compile_layers(model: torch.nn.Module) -> None:
    """
    Compile the repeated layers of a model in place, for rows of any length, when they are first called.

    `dynamo_use_regional_compilation` of accelerate compiles the layers of a copy, and TRL's `forward` calls the model.

    Raises:
        `InputError`: If there is no C++ compiler, or the model's code is not from transformers.
    """
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise InputError("--compile_layers: no C++ compiler: install g++, or name another one in CXX") from None
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"--compile_layers: not with {type(model).__name__}, which has no layers of transformers")
    for layer in layers:
        layer.compile(dynamic=True)


class ResumedTrainer:
    """
    Train no step after `max_steps` from a checkpoint at that step, where [`~transformers.Trainer`] trains one, and
    write no card before the training has ended.
    """

    args: Any
    state: TrainerState

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]  # of a trainer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: TRL's card, written at each checkpoint, has neither base nor licence."""

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)  # type: ignore[misc]  # of a trainer
        Path(output_dir or str(self.args.output_dir), "README.md").unlink(missing_ok=True)  # PEFT's template


class AnswerTrainer(ResumedTrainer, SFTTrainer):
    """
    Train as [`~trl.SFTTrainer`] does. On a CPU, compute logits only at positions where a row of the batch has an
    answer token; at evaluations, score answers to validation records.

    On a CPU `SFTTrainer` computes logits for every token of the prompt too, which is most of the cost of a small model
    with long prompts and short answers. The loss is the same.

    The loss is the weighted sum over all learned tokens of a step, in all processes, divided by their number. A token
    counts as one whatever its weight: a row has the same influence whichever rows are in its batch.

    Args:
        questions ([`Questions`], *optional*):
            The records to answer at every evaluation, in addition to computing the loss.
        empty_weight (`float`, *optional*, defaults to 1.0):
            Weight of the tokens that say that nothing was found: those whose label is `EMPTY` minus the token.
        *args, **kwargs:
            Passed to [`~trl.SFTTrainer`].
    """

    def __init__(
        self, *args: Any, questions: Questions | None = None, empty_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.questions, self.empty_weight = questions, empty_weight
        if empty_weight != 1 and (self.args.loss_type != "nll" or self.args.label_smoothing_factor):
            raise InputError("--empty_weight needs --loss_type nll and no --label_smoothing_factor")
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self.answers_alone = (
            self.accelerator.device.type == "cpu"
            and "logits_to_keep" in signature(base.forward).parameters
            and self.args.loss_type == "nll"
            and not self.args.label_smoothing_factor
            and not self.aux_loss_enabled
        )
        if questions is not None:
            engine = TransformersEngine(self.model, self.processing_class)
            requests = [Request(to_prompt(instance)) for instance in questions.instances]
            left = min(engine.context_left(request, questions.max_new_tokens) for request in requests)
            if left < 0:
                raise InputError(
                    f"a validation record and the longest answer to it are {-left} tokens more than the model's "
                    "context: give a smaller --max_length or --ie_f1_max_new_tokens"
                )
        if self.args.fp16:
            # Gradients are scaled in float32; TRL brings the adapter of a quantized base to bfloat16
            for weight in self.model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
        if self.accelerator.device.type == "cpu" and is_bitsandbytes_available():
            from bitsandbytes.nn.modules import Linear4bit

            for module in self.model.modules():
                if isinstance(module, Linear4bit):
                    # Otherwise the first evaluation packs the weights for inference, permanently, and no gradient
                    # passes through them any more.
                    module.support_avx512bf16_for_cpu = False

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: SFTConfig, *rest: Any) -> Dataset:
        if DRAW not in dataset.column_names:
            return super()._prepare_dataset(dataset, processing_class, args, *rest)
        ends = np.cumsum(np.bincount(dataset[DRAW]))  # each draw by itself: packing would mix them
        parts = []
        for start, end in zip([0, *ends], ends, strict=False):
            part = dataset.select(range(start, end)).remove_columns(DRAW)
            part = super()._prepare_dataset(part, processing_class, args, *rest)
            parts.append(part.shuffle(seed=args.seed) if args.packing else part)
        return concatenate_datasets(parts)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        is_empty = inputs["labels"] <= EMPTY
        inputs["labels"] = inputs["labels"].where(~is_empty, EMPTY - inputs["labels"])
        weights = torch.where(is_empty, self.empty_weight, 1.0)[:, 1:]
        if not self.answers_alone or return_outputs:

            def weighted(**kwargs: Any) -> Any:
                outputs = model(**kwargs)
                if "fused_lm_head" in kwargs:  # the call whose output the loss is computed from
                    outputs.log_probs = outputs.log_probs * weights.to(outputs.log_probs)
                return outputs

            wrapped: Any = model if self.empty_weight == 1 else weighted
            return super().compute_loss(wrapped, inputs, return_outputs, num_items_in_batch)

        labels = inputs.pop("labels")[:, 1:]
        positions = (labels != -100).any(dim=0).nonzero().flatten()
        labels, weights = labels[:, positions].flatten(), weights[:, positions].flatten()
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.flatten(0, 1)
        loss = (F.cross_entropy(logits.float(), labels, reduction="none") * weights).sum()
        if num_items_in_batch is None:
            return loss / (labels != -100).sum()
        loss = loss / num_items_in_batch
        # `num_items_in_batch` counts the tokens of all processes, whose gradients are then averaged.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    # Its shapes and the cache of generation would be compiled anew, the latter for every layer.
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.questions is not None:
            scores = self.questions.score(self.answer(self.questions))
            output.metrics.update({f"{metric_key_prefix}_ie_{name}": value for name, value in scores.items()})
            by_f1 = self.args.metric_for_best_model in ("ie_f1", "eval_ie_f1")
            if by_f1 and scores["f1"] == self.state.best_metric:  # of equal checkpoints the later one is kept
                self.state.best_metric = math.nextafter(scores["f1"], -math.inf)
        return output

    def answer(self, questions: Questions) -> list[str]:
        """Generate greedy answers with the current model; each process generates its share."""
        count, world, rank = len(questions.instances), self.accelerator.num_processes, self.accelerator.process_index
        # With FSDP every pass gathers weights from all processes, so all run the same passes.
        share = range(count) if self.is_fsdp_enabled else range(rank, count, world)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            engine = TransformersEngine(
                model,
                self.processing_class,
                self.args.per_device_eval_batch_size,
                pass_cost=PassCost.assume(model),  # measured, each process would run other passes
            )
            requests = [Request(to_prompt(questions.instances[index])) for index in share]
            answers = [answer.text for answer in engine.generate(requests, questions.max_new_tokens)]
        return [text for _, text in sorted(dict(gather_object(list(zip(share, answers, strict=True)))).items())]


class PromptTrainer(ResumedTrainer, GRPOTrainer):
    """
    Train as [`~trl.GRPOTrainer`] does, with prompts that are encoded as in use: a control token in a text is plain
    characters.
    """

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        tokenizer = self.processing_class
        rendered = [render(prompt, tokenizer, **self.chat_template_kwargs) for prompt in prompts]
        return encode(rendered, tokenizer), None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # Before continuous batching TRL converts all weights to bfloat16, in which small steps would be lost.
        kept = [(weight, weight.data) for weight in self.model.parameters() if weight.requires_grad]
        completions = super()._generate_single_turn(*args, **kwargs)
        for weight, data in kept:
            weight.data = data
        return completions


def end(trainer: Trainer) -> None:
    """
    Drop the model, then finish the trackers and leave the process group, as [`~transformers.Trainer.end`] does; the
    trainer cannot be used afterwards.

    The last owner of a Gloo group joins its threads. `DistributedDataParallel` does so without releasing the GIL,
    which the threads may need to free a tensor that they gathered: then the process never ends.
    """
    trainer.model_wrapped = torch.nn.Module()
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
