"""The cards: what they say is right and whole, and nothing in a name or label breaks them."""

import ast
import json
import re
from collections import Counter
from html import escape
from pathlib import Path

import pytest
import yaml
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, write_corpus
from helpers.hub_server import LocalHub

from iepile_builder import IEPile, InputError
from iepile_builder.commands.train import parse
from iepile_builder.data.corpus import find_corpora
from iepile_builder.engines.loading import SMOLLM2, ZERO_SHOT
from iepile_builder.extraction.user_schema import read_schema
from iepile_builder.hub.cards import ModelFacts, dataset_card, model_card, plain
from iepile_builder.io import find_adapter
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS
from iepile_builder.training.record import write_training


RECORD = {"dataset": None, "dataset_name": "x", "rows": 3, "how": "somehow", "kept_step": 1}
LICENSE = {"license": "other", "license_name": "small", "license_link": "https://example.com/small"}


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of answers to all tasks, in two languages, one answer in three wrong."""
    built = IEPile(
        data_dir=str(SAMPLE_CORPUS), tasks=ALL_TASKS, max_records=6, cache_dir=str(tmp_path_factory.mktemp("cache"))
    )
    scorer = Scorer()
    for number, row in enumerate(built.as_dataset(split="train")):
        scorer.add({**row, "id": str(number), "output": row["output"] if number % 3 else "{}", "label": label(row)})
    settings = {"mode": "strict", "repair": False, "bootstrap": 20, "confidence": 0.9, "seed": 0}
    file = tmp_path_factory.mktemp("report") / "report.json"
    file.write_text(json.dumps({**scorer.report(resamples=20, confidence=0.9), "settings": settings}))
    return file


@pytest.fixture
def report(report_file: Path) -> dict:
    return json.loads(report_file.read_text())


def label(row: dict) -> str:
    from iepile_builder.data.instructions import asked_schema

    schema = asked_schema(row["instruction"], row["task"])
    return json.dumps(TASKS[row["task"]].annotations(json.loads(row["output"]), schema), ensure_ascii=False)


def test_a_calibration(tmp_path: Path) -> None:
    assert "Calibration" not in model_card("adapter", tmp_path, "user/name").text
    of = {"records": 40, "facts": 80, "limit": 3.0, "f1_before": 22.8, "f1_after": 32.0, "f1_cross_validated": 28.3}
    fitted = {"dataset": "<b>", "split": "validation", "tasks": {"NER": of}}
    value = {"empty_bias": {"NER": -0.25}, "score": {"NER": [1.0, 0.0]}, "fitted_on": fitted}
    (tmp_path / "calibration.json").write_text(json.dumps(value))
    text = model_card("adapter", tmp_path, "user/name").text
    assert "| NER | -0.25 | 40 | 22.8 | 28.3 |" in text.replace("\\", "")
    assert "fitted on the validation split of" in text and "<b>" not in text
    (tmp_path / "calibration.json").write_text('{"empty_bias": {"NER": -0.25}}')  # by hand
    text = model_card("adapter", tmp_path, "user/name").text
    assert "a bias of the decision" in text and "fitted on" not in text


@pytest.mark.parametrize("form", ["adapter", "merged", "gguf"])
def test_the_metadata(form: str, report_file: Path, tmp_path: Path) -> None:
    facts = ModelFacts("org/base", ["org/data"], report_file=report_file, split="test")
    card = model_card(form, tmp_path, "user/name", facts, LICENSE)
    data = yaml.safe_load(card.content.split("---\n")[1])
    relation = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[form]
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", relation)
    assert data["datasets"] == ["org/data"]
    assert data["language"] == ["en", "zh"]
    assert {name: data[name] for name in LICENSE} == LICENSE
    assert data["library_name"] == {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[form]
    assert data["pipeline_tag"] == "text-generation"
    assert {"information-extraction", "iepile", "iepile-builder", "NER", "KG"} <= set(data["tags"])
    assert {result["dataset"]["split"] for result in data["model-index"][0]["results"]} == {"test"}


def test_every_f1_with_its_interval_and_the_base_model(report: dict, report_file: Path, tmp_path: Path) -> None:
    report["tasks"]["NER"]["f1"] = 12.34
    (tmp_path / "base.json").write_text(json.dumps(report))
    facts = ModelFacts(
        "org/base", ["org/data"], report_file=report_file, baseline_file=tmp_path / "base.json",
        scored="Half of it; greedy.",
    )  # fmt: skip
    card = model_card("adapter", tmp_path, "user/name", facts)
    report = json.loads(report_file.read_text())
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
        assert found[key].dataset_split is None
        enough = scores["records"] >= 10
        assert ("(90% interval" in found[key].metric_name) == ("interval" in found[key].metric_args) == enough
        if enough:
            assert found[key].metric_args["interval"] == pytest.approx([low, high], abs=0.01)
        shown = f"[{low:.1f}, {high:.1f}]" if enough else "n too small"
        assert f"**{scores['f1']:.1f}** {shown} |" in card.text
    assert {scores["records"] >= 10 for scores in wanted.values()} == {True, False}
    assert "90% bootstrap intervals" in card.text
    assert f"{report['overall']['records']} records of a split that was not recorded" in card.text
    assert r"Half of it; greedy." in card.text
    assert re.search(r"^\| all \| NER \| \*\*.*\*\* .* \| 12\.3 \|", card.text, re.MULTILINE)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_code_asks_as_in_training(tmp_path: Path, task: str, language: str) -> None:
    (tmp_path / "training.json").write_text(json.dumps({**RECORD, "tasks": [task], "languages": [language]}))
    card = model_card("merged", tmp_path, "user/name")
    extractor, code = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    assigned = {node.targets[0].id: node.value for node in ast.parse(code).body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["name"]) == "user/name"
    schema, text, _ = TASKS[task].examples[language]
    instruction = ast.literal_eval(assigned["instruction"])
    assert instruction == {"instruction": TASKS[task].instructions[language], "schema": schema, "input": text}
    *_, given, printed = ast.parse(extractor).body
    asked = {word.arg: ast.literal_eval(word.value) for word in printed.value.args[0].value.keywords}
    assert (ast.literal_eval(given.value), asked) == (text, {"task": task, "schema": schema})
    assert f"`{json.dumps(schema[0], ensure_ascii=False)}` |" in card.text  # the table of schemas, in the language too
    read_schema(schema, task)
    shown = json.dumps(schema[0], ensure_ascii=False)
    assert f"| {TASKS[task].title} | `{shown}` |" in card.text  # the table is in that language, too
    assert [each for each in ALL_TASKS if f"({each})" in card.text] == [task]
    assert set(card.data.tags) & set(ALL_TASKS) == {task}


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    card = model_card("adapter", tmp_path)
    assert card.data.base_model is None
    assert not {"base_model", "base_model_relation", "datasets", "language", "license", "model-index"} & set(
        yaml.safe_load(card.content.split("---\n")[1])
    )
    for word in ("None", "## Scores", "## Training", "undefined", "Tasks:", "Languages:", "## Schema", "training.png"):
        assert word not in card.text
    assert not set(card.data.tags) & set(ALL_TASKS)


def test_the_card_says_how_the_answers_were_made(report_file: Path, tmp_path: Path) -> None:
    engine = {"engine": "transformers", "dtype": "bfloat16", "constrain": True, "copied": False, "max_new_tokens": 99}
    run = {"engine": engine, "data": {"split": "dev"}}
    (tmp_path / "preds.run.json").write_text(json.dumps(run))
    facts = ModelFacts("org/base", report_file=report_file, predictions_file=tmp_path / "preds.jsonl")
    card = model_card("adapter", tmp_path, "user/name", facts)
    assert "records of the split `dev`; in brackets" in card.text
    assert "with at most 99 tokens, constrained to the JSON schema of the instruction, in bfloat16." in card.text
    assert {result.dataset_split for result in card.data.eval_results} == {"dev"}
    for copied, words in [
        (True, "of the instruction and to strings of the text, in bfloat16."),
        (["NER", "RE"], "of the instruction and to strings of the text (NER, RE, without descriptions), in bfloat16."),
    ]:
        (tmp_path / "preds.run.json").write_text(json.dumps({**run, "engine": {**engine, "copied": copied}}))
        assert words in model_card("adapter", tmp_path, "user/name", facts).text
    (tmp_path / "preds.run.json").write_text(json.dumps({**run, "constrained": False}))
    assert "with at most 99 tokens, without a grammar" in model_card("adapter", tmp_path, "user/name", facts).text


def test_the_card_says_what_was_left_out_of_the_scores(report: dict, tmp_path: Path) -> None:
    report["settings"] |= {"max_records": 5, "multi_label": False, "min_score": 0.5}
    (tmp_path / "report.json").write_text(json.dumps(report))
    card = model_card("adapter", tmp_path, "user/name", ModelFacts(report_file=tmp_path / "report.json"))
    for words in (
        "Only the first 5 records of each corpus were answered.",
        "An entity has its likeliest label alone.",
        "Facts with a score below 0.5 were left out.",
    ):
        assert words in card.text
    arguments = card.data.eval_results[0].metric_args
    assert {"max_records": 5, "multi_label": False, "min_score": 0.5}.items() <= arguments.items()


def test_a_name_is_not_escaped_more_than_it_must_be() -> None:
    assert plain("adamw_torch_fused 0.5 {x} C#") == "adamw_torch_fused 0.5 {x} C#"
    assert plain("_a_ __b\n[c](d)") == r"\_a\_ \_\_b \[c\](d)"


HOSTILE = "a|b `c` </details><script>alert(1)</script> *d* {{ 7 * 7 }}"


def test_no_name_or_label_breaks_a_card(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    source = "x|y <script>z"
    write_corpus(tree / "IE-en" / "NER" / source, [[HOSTILE, "two\nlines"], [], {}], train=[])
    card = dataset_card(
        find_corpora([str(tree)]), {"train": Counter({("NER", "en", source): 3})}, [{"given": 1, "split": "train"}],
        "iepile build", {source: "mit | x\n| a"}, "parquet", plots=[Path("lengths.png"), Path("together_NER_x.png")],
        example={"instruction": f'{{"schema": ["{HOSTILE}"]}}', "output": None},
    )  # fmt: skip
    (row,) = re.findall(r"^\| NER \| en .*$", card.text, re.MULTILINE)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8 - 1
    (row,) = re.findall(r"^\| `instruction` \| .*alert.*$", card.text, re.MULTILINE)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    from markdown_it import MarkdownIt

    html = MarkdownIt("gfm-like", {"linkify": False}).render(card.text)
    assert "<script" not in html
    assert html.count("</details>") == html.count("<details>") == 1
    assert f"<code>{escape(HOSTILE)}</code>, <code>two lines</code>" in html
    assert "{{ 7 * 7 }}" in html
    assert 'load_dataset("./parquet")' in card.text  # "parquet" alone is a loader's name
    assert "CC BY-NC-SA 4.0" in card.text
    assert "in characters:" in card.text and "Heat map of NER" in card.text

    (tmp_path / "training.json").write_text(
        json.dumps({**RECORD, "dataset_name": HOSTILE, "settings": {"a": "x | y\nz"}, "base_note": "Q4_1 <b>"})
    )
    html = MarkdownIt("gfm-like", {"linkify": False}).render(model_card("adapter", tmp_path).text)
    assert "<script" not in html and "<b>" not in html
    assert f"instances of {escape(HOSTILE)}," in html
    assert "<td>x | y z</td>" in html
    assert "Q4_1 &lt;b&gt;" in html


def test_a_run_is_told_without_its_places_and_its_tokens(hub: LocalHub, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base_note.txt").write_text("Its weights had 4 bits.")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tmp_path}/base\ndataset_name: user/data\noutput_dir: {tmp_path}/out\n"
        f"hub_token: {hub.token}\nlearning_rate: 1.0e-3\nuse_peft: true\nlora_target_modules: all-linear\n"
        "lr_scheduler_type: cosine\nuse_cpu: true\nbf16: false\nmax_length: 99\nmax_train_tokens: 1000\n"
    )
    data_args, training_args, model_args = parse(["--config", str(config)])
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
    assert json.loads(record)["base_model"] == SMOLLM2  # only its dequantized weights have the note
    assert json.loads(record)["base_note"] == "Its weights had 4 bits."

    again = ["--config", str(tmp_path / "recipe.yaml"), "--dataset_name", "user/data", "--output_dir", "other"]
    again += ["--model_name_or_path", "org/base"]
    for one, other in zip(parse(again), (data_args, training_args, model_args), strict=True):
        differing = {
            name
            for name, value in vars(other).items()
            if str(vars(one)[name]) != str(value) and not name.startswith("_")
        }
        assert differing <= {"output_dir", "project", "model_name_or_path", "hub_token"}

    card = model_card("adapter", tmp_path, "user/name", ModelFacts("org/base"), LICENSE)
    assert "Trained on 1,234 instances of [user/data](https://huggingface.co/datasets/user/data)" in card.text
    assert "| learning rate | 0.001 |" in card.text
    assert "| 1 | 1.0000 |" in card.text
    assert "| 30 | 0.0333 |" in card.text
    assert "those of step 30" in card.text
    assert card.data.datasets == ["user/data"]


@pytest.mark.parametrize(
    ("log", "title"),
    [
        ([{"step": 1, "loss": 2.0}], "Loss by step"),
        ([{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.0, "eval_ie_f1": 3.0}], "Loss and scores by step"),
        ([{"step": 1, "loss": 0.0, "reward": 0.5}], "Rewards by step"),
    ],
)
def test_the_title_of_the_plot(tmp_path: Path, log: list[dict], title: str) -> None:
    (tmp_path / "training.json").write_text(json.dumps({**RECORD, "log": log}))
    (tmp_path / "training.png").touch()
    assert f"\n![{title}](training.png)\n" in model_card("adapter", tmp_path).text


def test_labels_and_languages(tmp_path: Path) -> None:
    def write(**more: object) -> str:
        (tmp_path / "training.json").write_text(json.dumps({**RECORD, "tasks": ["NER"], **more}))
        return model_card("adapter", tmp_path).text

    german = {"NER": ["Organisation", "Ort", "Person", "`"]}
    text = write(languages=["de", "xx"], labels=german)
    assert "\n- Languages: German, xx\n" in text
    assert "\n- Labels of NER that it was trained on: `Organisation`, `Ort`, `Person`, `` ` ``\n" in text
    assert 'text = "Put a text in German here."\n' in text
    assert 'extractor(text, task="NER", schema=["Organisation", "Ort", "Person"]).facts' in text
    assert text.count('["Organisation", "Ort", "Person"]') == text.count('"Put a text in German here."') == 2
    english = TASKS["NER"].examples["en"]
    for languages in (["en"], []):
        text = write(languages=languages, labels={"NER": ["city", "gene", "person", "river"]})
        assert f"text = {json.dumps(english.text)}\n" in text
        assert f'extractor(text, task="NER", schema={json.dumps(english.schema)})' in text
    many = write(labels={"NER": [f"label {number:03}" for number in range(1030)], "RE": []})
    assert "`label 019` and 1,010 more, in `training.json`\n" in many and "label 020" not in many
    assert "Labels of RE" not in many
    typed = write(tasks=["SPO"], labels={"SPO": ["person_spouse_person"]})
    item = '{"subject_type": "person", "predicate": "spouse", "object_type": "person"}'
    assert f'task="SPO", schema=[{item}]' in typed
    item = {"event_type": "attack", "trigger": True, "arguments": ["attacker"]}
    events = write(tasks=["EE"], labels={"EE": ["attack"]}, items={"EE": [item]})
    assert f'task="EE", schema=[{json.dumps(item).replace("true", "True")}]' in events
    events = write(tasks=["EE"], labels={"EE": ["attack"]})  # whose roles are not known
    assert "- Labels of EE that it was trained on: `attack`\n" in events
    assert f'task="EE", schema={json.dumps(TASKS["EE"].examples["en"].schema).replace("true", "True")}' in events


def test_the_shipped_adapter_whose_training_has_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_bytes(Path(find_adapter(ZERO_SHOT), "training.json").read_bytes())
    text = model_card("merged", tmp_path).text
    assert "\n## Training\n\nTrained on 47 English corpora.\n" in text and "None" not in text


def test_training_data_without_a_name(tmp_path: Path) -> None:
    log = [{"step": 1, "eval_loss": 0.5}]
    (tmp_path / "training.json").write_text(json.dumps({**RECORD, "dataset_name": None, "log": log}))
    card = model_card("adapter", tmp_path)
    assert "\nTrained on 3 instances, somehow. " in card.text
    (result,) = card.data.eval_results
    assert result.dataset_name == "validation split of its training data"


def test_a_report_without_intervals(report: dict, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    del report["overall"]["intervals"]
    for content, message in (
        (report, "score again with --bootstrap 1000"),
        ({"f1": 3}, "not a report of iepile score"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"report.json: .*{message}"):
            model_card("adapter", tmp_path, "user/name", ModelFacts("org/base", report_file=file))
