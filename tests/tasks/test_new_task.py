"""A new task is one class and its fact: nothing else changes, from the corpus to the page."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.corpora import write_corpus
from helpers.rules import RuleEngine
from helpers.tiny import save_tiny_model

from iepile_builder import Extractor, IEPile, InputError, Schema
from iepile_builder.chat import load_tokenizer
from iepile_builder.extraction.user_schema import read_schema
from iepile_builder.hub.cards import model_card
from iepile_builder.io import to_json
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.report import write_report
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Example, Task
from iepile_builder.tasks.facts import Annotation, Fact
from iepile_builder.tasks.values import malformed


class _Category(NamedTuple):
    category: str


class Category(_Category, Fact):
    """A category that a text belongs to: a fact without any string of the text."""

    __slots__ = ()
    columns = (("category", "category"),)

    def to_annotation(self) -> Annotation:
        return {"category": self.category}


class CLS(Task):
    """Document classification: `{"sports": "yes", "politics": "no"}`."""

    name = "CLS"
    title = "categories of documents"
    field = "categories"
    mentions = ()
    names = ("category",)
    nothing = "no"
    label_name = "topic"
    form = ["sports", "politics"]
    instructions = {"en": "Say of each category in the schema whether the input belongs to it."}
    examples = {"en": Example(["sports", "politics"], "The match is over.", {"sports": "yes", "politics": "no"})}

    def value_schema(self, item: Any) -> dict[str, Any]:
        return {"enum": ["no", "yes"]}

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        return "yes"

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [{"category": label} for label, value in answer.items() if value == "yes"]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Category(annotation["category"]) for annotation in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        facts: list[Fact] = []
        for label, value in answer.items():
            named = {"yes": [label], "no": []}
            facts += map(Category, named[value] if value in ("yes", "no") else malformed(value))
        return facts


LABELS = ["sports", "politics", "science", "music", "travel"]
RECORDS = [
    {"text": "sports and music", "categories": [{"category": "sports"}, {"category": "music"}]},
    {"text": "science alone", "categories": [{"category": "science"}]},
    {"text": "none of them", "categories": []},
]


@pytest.fixture(autouse=True)
def _cls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "CLS", CLS())


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, list[dict]]:
    """The instances of a corpus of the task."""
    write_corpus(tmp_path / "IE-en" / "CLS" / "news", [LABELS, [], {}], train=RECORDS, test=RECORDS)
    built = IEPile(data_dir=str(tmp_path), tasks=["CLS"], cache_dir=str(tmp_path / "cache")).as_dataset()
    return {split: list(dataset) for split, dataset in built.items()}


def says_yes_where_it_stands(item: str, text: str) -> str:
    return "yes" if item in text else "no"


def test_it_is_built(rows: dict[str, list[dict]]) -> None:
    assert {(row["task"], row["source"]) for row in rows["train"]} == {("CLS", "news")}
    for row in rows["train"]:
        instruction, answer = json.loads(row["instruction"]), json.loads(row["output"])
        assert instruction["instruction"] == CLS.instructions["en"]
        assert list(answer) == instruction["schema"]
        assert answer == {label: says_yes_where_it_stands(label, instruction["input"]) for label in answer}
    first = rows["test"][0]
    assert json.loads(first["instruction"])["schema"] == LABELS
    assert json.loads(first["label"]) == RECORDS[0]["categories"]


def test_a_wrong_annotation_is_refused(tmp_path: Path) -> None:
    record = {"text": "sports", "categories": [{"category": "sport"}]}
    write_corpus(tmp_path / "IE-en" / "CLS" / "news", [LABELS, [], {}], train=[record])
    with pytest.raises(InputError, match="category 'sport' is not in schema.json; the closest .* 'sports'"):
        IEPile(data_dir=str(tmp_path), tasks=["CLS"], cache_dir=str(tmp_path / "cache")).as_dataset()


def test_it_is_scored(rows: dict[str, list[dict]], tmp_path: Path) -> None:
    gold, wrong = Scorer(), Scorer()
    for row in rows["test"]:
        answer = {label: says_yes_where_it_stands(label, json.loads(row["instruction"])["input"]) for label in LABELS}
        asked = json.loads(row["instruction"])["schema"]
        gold.add({**row, "output": to_json({label: answer[label] for label in asked})})
        wrong.add({**row, "output": to_json({label: "yes" if label != "music" else "maybe" for label in asked})})
    assert gold.report()["tasks"]["CLS"]["f1"] == gold.report()["macro"]["tasks"]["CLS"]["labels"]["f1"] == 100
    scores = wrong.report()["tasks"]["CLS"]  # right: sports once, science once; music three times malformed
    assert (scores["tp"], scores["pred"], scores["gold"]) == (2, 15, 3)
    assert wrong.report(Matching("grounded"))["overall"]["pred"] == 15
    html = write_report(tmp_path / "report", wrong, resamples=10).read_text()
    assert "CLS" in html and "label outside the schema" in html


def test_it_is_extracted() -> None:
    extractor = Extractor(RuleEngine(says_yes_where_it_stands), drop_ungrounded=True)
    result = extractor("Some sports. Some music.", "CLS", ["sports", "politics", "music"])
    assert result.facts == [Category("sports"), Category("music")]
    assert result.to_answer() == {"sports": "yes", "politics": "no", "music": "yes"}
    assert result.annotations() == [{"category": "sports"}, {"category": "music"}]
    assert result.to_dict()["facts"] == [{"category": name, "score": None} for name in ("sports", "music")]
    html = result.to_html()
    assert "<th>category</th>" in html and "<td>music</td>" in " ".join(html.split())
    assert result.to_networkx().number_of_nodes() == 0


def test_the_schema_of_a_user() -> None:
    assert read_schema({"sports": "games that are played", "music": ""}, "CLS") == (
        Schema(types=("sports", "music")),
        {"sports": "games that are played", "music": ""},
    )
    with pytest.raises(InputError, match=r'give CLS the topics, such as \["sports", "politics"\]'):
        read_schema([], "CLS")
    assert "One topic per line, such as `sports`" in TASKS["CLS"].hint


def test_the_grammar_holds_a_model_to_it(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    from iepile_builder.answers.grammar import Grammars, close_answer

    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path / "tiny")))
    grammars = Grammars(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    schema = TASKS["CLS"].answer_schema(["sports", "music"])

    def accepts(answer: dict) -> bool:
        tokens = tokenizer(to_json(answer), add_special_tokens=False)["input_ids"]
        matcher = grammars.matcher(schema)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()

    assert accepts({"sports": "yes", "music": "no"})
    assert not accepts({"sports": "yes", "music": "maybe"})
    assert not accepts({"sports": ["yes"], "music": "no"})
    assert close_answer(schema, '{"sports": "yes", "mu') == to_json({"sports": "yes", "music": "no"})
    assert close_answer(schema, '{"sports": "y') == to_json({"sports": "no", "music": "no"})


def test_the_card(tmp_path: Path) -> None:
    record = {"dataset": None, "dataset_name": "x", "rows": 3, "how": "", "kept_step": 1, "tasks": ["CLS"]}
    (tmp_path / "training.json").write_text(json.dumps({**record, "languages": ["en"]}))
    text = model_card("adapter", tmp_path, "user/name").text
    assert "categories of documents" in text
    assert '"sports"' in text and '{"sports": "yes"}' in text
    assert CLS.instructions["en"] in text
