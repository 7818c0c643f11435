"""The cards: what they say is right, whole, and as the Hub wants it."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS
from helpers.hub_server import LocalHub
from helpers.hub_server import check_card as hub_check
from huggingface_hub import ModelCard

from iepile_builder import IEPile, InputError
from iepile_builder.data.instructions import TEXT
from iepile_builder.hub.cards import ANSWERS, EXAMPLES, FORMS, ITEMS, check_card, check_report, model_card
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS
from iepile_builder.training.record import write_training


LICENSE = {"license": "other", "license_name": "small", "license_link": "https://example.com/small"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Scores of answers to all tasks, in two languages, one answer in three wrong."""
    built = IEPile(
        data_dir=str(SAMPLE_CORPUS), tasks=ALL_TASKS, max_records=6, cache_dir=str(tmp_path_factory.mktemp("cache"))
    )
    scorer = Scorer()
    for number, row in enumerate(built.as_dataset(split="train")):
        scorer.add({**row, "id": str(number), "output": row["output"] if number % 3 else "{}", "label": label(row)})
    settings = {"mode": "strict", "repair": False, "bootstrap": 20, "confidence": 0.9, "seed": 0}
    return {**scorer.report(resamples=20, confidence=0.9), "settings": settings}


def label(row: dict) -> str:
    from iepile_builder.data.instructions import asked_schema

    schema = asked_schema(row["instruction"], row["task"])
    return json.dumps(TASKS[row["task"]].annotations(json.loads(row["output"]), schema), ensure_ascii=False)


def code_of(card: ModelCard) -> str:
    (code,) = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    return code


@pytest.mark.parametrize("form", FORMS)
def test_the_metadata(form: str, report: dict, tmp_path: Path) -> None:
    card = model_card(form, tmp_path, "user/name", "org/base", ["org/data"], [], LICENSE, report)
    data = yaml.safe_load(card.content.split("---\n")[1])
    relation = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[form]
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", relation)
    assert data["datasets"] == ["org/data"]
    assert data["language"] == ["en", "zh"]
    assert {name: data[name] for name in LICENSE} == LICENSE
    assert data["library_name"] == {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[form]
    assert data["pipeline_tag"] == "text-generation"
    assert {"information-extraction", "iepile", "iepile-builder", "NER", "KG"} <= set(data["tags"])
    assert hub_check(card.content, "model") == ([], [])
    check_card(card.content, "model")


def test_every_f1_with_its_interval(report: dict, tmp_path: Path) -> None:
    card = model_card("adapter", tmp_path, "user/name", "org/base", ["org/data"], [], LICENSE, report)
    found = {
        (result.dataset_type, result.dataset_config, result.metric_name.split(" (")[0]): result
        for result in card.data.eval_results
    }
    wanted = {("org/data", "default", "F1, all facts"): report["overall"]}
    for task, scores in report["tasks"].items():
        of_corpus = {corpus: tasks[task] for corpus, tasks in report["sources"].items() if task in tasks}
        assert len(of_corpus) == 2  # one in each language
        for name, part in {"org/data": scores, **of_corpus}.items():
            for block in ("trigger", "argument") if task in ("EE", "EEA") else ("",):
                if not block or block in part:
                    wanted[name, task, f"F1, {task} {block}".strip()] = part[block] if block else part
    assert found.keys() == wanted.keys()
    for key, scores in wanted.items():
        low, high = scores["intervals"]["f1"]
        assert found[key].metric_type == "ie_f1"
        assert found[key].metric_value == pytest.approx(scores["f1"], abs=0.01)
        assert found[key].metric_args["interval"] == pytest.approx([low, high], abs=0.01)
        assert "(90% interval" in found[key].metric_name
        assert f"**{scores['f1']:.1f}** [{low:.1f}, {high:.1f}]" in card.text
    assert "90% bootstrap intervals" in card.text


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_code_asks_as_in_training(report: dict, tmp_path: Path, task: str, language: str) -> None:
    of_task = {**report, "tasks": {task: report["tasks"][task]}}
    code = code_of(model_card("merged", tmp_path, "user/name", "org/base", [], [language], LICENSE, of_task))
    assigned = {node.targets[0].id: node.value for node in ast.parse(code).body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["name"]) == "user/name"
    schema, text = EXAMPLES[language][task]
    instruction = ast.literal_eval(assigned["instruction"])
    assert instruction == {"instruction": TEXT[task][language], "schema": schema, "input": text}
    assert max(map(len, code.splitlines())) < 120


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_schema_and_the_answer_that_are_shown_are_of_the_task(task: str) -> None:
    from iepile_builder.answers.parse import parse_answer
    from iepile_builder.data.instructions import read_asked

    for item, answer in ((ITEMS[task], ANSWERS[task]),):
        asked, _ = read_asked(json.dumps({"instruction": "", "schema": [json.loads(item)], "input": "A"}), task)
        parsed = parse_answer(answer, task, asked.schema, False)
        assert parsed.parsed
        assert parsed.facts
        assert parsed.outside == 0


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    card = model_card("adapter", tmp_path, "mine")
    assert card.data.base_model is None
    assert not {"base_model", "base_model_relation", "datasets", "language", "license", "model-index"} & set(
        yaml.safe_load(card.content.split("---\n")[1])
    )
    for word in ("None", "## Scores", "## Training", "undefined"):
        assert word not in card.text
    with pytest.raises(InputError, match="its metadata lacks license, base_model"):
        check_card(card.content, "model")


def test_a_run_is_told_without_its_places_and_its_tokens(hub: LocalHub, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from helpers.tiny import load_script

    sft = load_script("sft")
    (tmp_path / "base").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tmp_path}/base\ndataset_name: user/data\noutput_dir: {tmp_path}/out\n"
        f"hub_token: {hub.token}\nlearning_rate: 1.0e-3\nuse_peft: true\nlora_target_modules: all-linear\n"
        "lr_scheduler_type: cosine\nuse_cpu: true\nbf16: false\nmax_length: 99\nmax_train_tokens: 1000\n"
    )
    parser = trl.TrlParser((sft.DataArguments, trl.SFTConfig, trl.ModelConfig))
    data_args, training_args, model_args = parser.parse_args_and_config(["--config", str(config)])
    log = [{"step": step, "loss": 1 / step} for step in range(1, 31)]
    settings = {"learning rate": 0.001}
    write_training(tmp_path, data_args, training_args, model_args, 1234, settings, log, 30)
    record = (tmp_path / "training.json").read_text()
    recipe = (tmp_path / "recipe.yaml").read_text()
    for text in (record, recipe):
        assert str(tmp_path) not in text
        assert hub.token not in text
        assert "HUB_TOKEN" not in text
    assert json.loads(record)["arguments"]["max_length"] == 99
    assert json.loads(record)["dataset"] == "user/data"
    assert json.loads(record)["base_name"] == "base"

    again = ["--config", str(tmp_path / "recipe.yaml"), "--dataset_name", "user/data", "--output_dir", "other"]
    for one, other in zip(parser.parse_args_and_config(again), (data_args, training_args, model_args), strict=True):
        differing = {
            name
            for name, value in vars(other).items()
            if str(vars(one)[name]) != str(value) and not name.startswith("_")
        }
        assert differing <= {"output_dir", "model_name_or_path", "hub_token"}

    card = model_card("adapter", tmp_path, "user/name", "org/base", license=LICENSE)
    assert "Trained on 1,234 instances of [user/data](https://huggingface.co/datasets/user/data)" in card.text
    assert "| learning rate | 0.001 |" in card.text
    assert "| 1 | 1.0000 |" in card.text
    assert "| 30 | 0.0333 |" in card.text
    assert "those of step 30" in card.text
    assert card.data.datasets == ["user/data"]


def test_a_report_without_intervals(report: dict) -> None:
    check_report(report, Path("report.json"))
    with pytest.raises(InputError, match=r"report.json: not a report of scripts/score.py"):
        check_report({"f1": 3}, Path("report.json"))
    del report["overall"]["intervals"]
    with pytest.raises(InputError, match=r"score again with --bootstrap 1000"):
        check_report(report, Path("report.json"))
