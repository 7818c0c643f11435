"""
The trainer: TRL's, with a cheaper loss on CPUs, and with the IE F1 of the model's answers where it evaluates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import SFTTrainer
from trl.models import unwrap_model_for_generation

from iepile_builder.chat import to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.errors import InputError
from iepile_builder.scoring.scorer import Scorer


@dataclass
class Questions:
    """
    Whole validation records, to be answered and scored while the model learns.

    Args:
        instances (`list[dict[str, Any]]`):
            With the annotation of their record as `label`.
        max_new_tokens (`int`):
            Longest answer.
    """

    instances: list[dict[str, Any]]
    max_new_tokens: int

    def score(self, answers: list[str]) -> dict[str, float]:
        """IE F1, precision and recall over all facts, and how many answers are JSON, all in per cent."""
        scorer = Scorer()
        for instance, answer in zip(self.instances, answers, strict=True):
            scorer.add({**instance, "output": answer})
        overall = scorer.report()["overall"]
        scores = {name: overall[name] for name in ("f1", "precision", "recall")}
        return {**scores, "valid_json": 100 - 100 * overall["unparsed"] / overall["answers"]}


class AnswerTrainer(SFTTrainer):
    """
    [`~trl.SFTTrainer`] that on a CPU computes logits only where some row of the batch has an answer token, and that
    scores answers to validation records where it evaluates.

    On a CPU `SFTTrainer` computes logits for every token of the prompt too: most of the cost of a small model with
    long prompts and short answers. The loss is the same.

    Args:
        questions ([`Questions`], *optional*):
            The records to answer at every evaluation, in addition to computing the loss.
        *args, **kwargs:
            Passed to [`~trl.SFTTrainer`].
    """

    def __init__(self, *args: Any, questions: Questions | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.questions = questions
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
        if self.accelerator.device.type == "cpu" and is_bitsandbytes_available():
            from bitsandbytes.nn.modules import Linear4bit

            for module in self.model.modules():
                if isinstance(module, Linear4bit):
                    # Else the first evaluation packs the weights for inference, for good, and from then on no gradient
                    # passes through them.
                    module.support_avx512bf16_for_cpu = False

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        if not self.answers_alone or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        labels = inputs.pop("labels")[:, 1:]
        positions = (labels != -100).any(dim=0).nonzero().flatten()
        labels = labels[:, positions].flatten()
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.flatten(0, 1)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        if num_items_in_batch is None:
            return loss / (labels != -100).sum()
        loss = loss / num_items_in_batch
        # `num_items_in_batch` counts the tokens of all processes, whose gradients are then averaged.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

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
        """The greedy answers of the model as it is now; each process gives its share of them."""
        count, world, rank = len(questions.instances), self.accelerator.num_processes, self.accelerator.process_index
        # With FSDP every pass gathers weights from all processes, so all do the same passes.
        share = range(count) if self.is_fsdp_enabled else range(rank, count, world)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            engine = TransformersEngine(model, self.processing_class, self.args.per_device_eval_batch_size)
            requests = [Request(to_prompt(questions.instances[index])) for index in share]
            answers = [answer.text for answer in engine.generate(requests, questions.max_new_tokens)]
        return [text for _, text in sorted(dict(gather_object(list(zip(share, answers, strict=True)))).items())]


def end(trainer: Trainer) -> None:
    """
    Finish the trackers and leave the other processes: [`~transformers.Trainer.end`] with nothing left that uses them.

    Whoever lets go of a Gloo group last waits for its threads. `DistributedDataParallel` does so without releasing the
    GIL, and they may need it to free a tensor that they gathered: then the process never ends.

    Args:
        trainer ([`~transformers.Trainer`]):
            Has trained and saved; it cannot be used any more.
    """
    trainer.model_wrapped = torch.nn.Module()
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
