"""`iepile benchmark`: from the files of test sets to one table, here answered by looking training mentions up."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers.corpora import ROOT, write_corpus, write_lines
from helpers.servers import OddServer
from helpers.tiny import save_tiny_model
from huggingface_hub import ModelCard, parse_eval_result_entries

from iepile_builder.commands.cli import run
from iepile_builder.engines.base import Completion, Request
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import ModelFacts, model_card
from iepile_builder.io import locked


AI = "Ada\tB-researcher\nuses\tO\nProlog\tB-programlang\n\nJoan\tB-researcher\nsleeps\tO\n"
MUSIC = "Cello\tB-musicalinstrument\nby\tO\nBo\tB-person\n"
OTHER_MUSIC = "Viola\tB-musicalinstrument\nby\tO\nIb\tB-person\n"
FEWFC = {
    "content": "甲公司减持乙公司股份。",
    "events": [{"type": "减持", "mentions": [{"word": "减持", "role": "trigger"}, {"word": "甲公司", "role": "sub"}]}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CrossNER's AI, which its training part gives away, and music, of which it knows nothing; FewFC without one."""
    folder = tmp_path / "data"
    for domain, test, train in (("ai", AI, AI), ("music", MUSIC, OTHER_MUSIC)):
        place = folder / "CrossNER" / "ner_data" / domain
        place.mkdir(parents=True)
        (place / "test.txt").write_text(test)
        (place / "train.txt").write_text(train)
    for name in ("test_base", "test_trans"):
        write_lines(folder / "FewFC" / "rearranged" / f"{name}.json", [FEWFC])
    return folder


def benchmark(data: Path, output: Path, *options: str) -> dict:
    common = ["--data_dir", str(data), "--output_dir", str(output), "--unchecked", "--bootstrap", "50"]
    run("benchmark", [*common, *options])
    return json.loads((output / "report.json").read_text())


def test_looks_up_the_training_parts_and_tells_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output"
    report = benchmark(data, output, "--engine", "lookup", "--sets", "CrossNER", "FewFC", "RAMS")
    mean, ai, music = report["benchmark"]["rows"]
    assert (mean["set"], mean["corpora"], mean["complete"]) == ("CrossNER", 2, False)
    assert (ai["corpus"], ai["f1"], ai["gold"], ai["records"]) == ("CrossNER_AI", 100, 3, 2)
    assert (music["f1"], music["recall"], music["gold"]) == (0, 0, 2)
    assert mean["f1"] == 50  # of corpora; of the pooled facts it would be 75
    assert mean["interval"] == [50, 50]
    assert ai["published"]["InstructUIE"] == 49.0
    assert mean["published"] == {}  # that of five corpora is not comparable
    assert report["benchmark"]["split_num"] == {"NER": 6}
    assert report["benchmark"]["unchecked"] is True
    assert report["benchmark"]["files"].keys() == {
        f"CrossNER/ner_data/{domain}/{split}.txt" for domain in ("ai", "music") for split in ("test", "train")
    }
    shown, progress = capsys.readouterr()
    bars = {line.split("|")[0].split(":")[0] for line in progress.replace("\r", "\n").splitlines() if line.strip()}
    assert bars == {"Answering"}  # one for all corpora, and nothing else
    assert "3/3" in progress
    assert "lookup: F1, strict, numbers of records not checked" in shown
    assert "CrossNER, mean of 2, incomplete" in shown
    assert "InstructUIE: tables 1 to 5 of its paper (arXiv 2304.08085)" in shown
    skipped = "CrossNER (CrossNER_literature, CrossNER_politics, CrossNER_science), RAMS, FewFC"
    assert f"skipped (no training part to look up in, or no files; see --list_sets): {skipped}" in shown


def test_another_engine_answers_all_sets_and_a_second_run_answers_nothing_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from iepile_builder.commands import benchmark as command

    instruction = {"instruction": "x", "schema": ["researcher"], "input": "Ada ran."}
    train = {"task": "NER", "instruction": json.dumps(instruction), "output": '{"researcher": ["Ada"]}'}
    (known := tmp_path / "known").mkdir()
    write_lines(known / "train.jsonl", [train])
    loads = []
    real = command.load_engine
    monkeypatch.setattr(command, "load_engine", lambda options: loads.append(options) or real(options))
    options = ["--engine", "lookup", "--model_name_or_path", str(known), "--sets", "CrossNER", "FewFC"]
    report = benchmark(data, tmp_path / "output", *options)
    rows = {(row["set"], row["corpus"], row["block"]): row for row in report["benchmark"]["rows"]}
    ai = rows["CrossNER", "CrossNER_AI", ""]
    assert (ai["precision"], ai["recall"]) == (100, pytest.approx(100 / 3))
    assert rows["FewFC", "", "trigger"]["gold"] == 2
    assert rows["FewFC", "", "argument"]["published"]["YAYI-UIE"] == 63.06
    assert report["benchmark"]["engine"]["model"] == "known"  # without a path of this machine
    assert "OneKE" in capsys.readouterr().out
    assert len(loads) == 1  # for all corpora
    assert benchmark(data, tmp_path / "output", *options) == report
    assert len(loads) == 1


class Torn:
    """An engine that finds Ada twice, and is surer that she is a researcher."""

    scores = True
    silent = False  # as a server that tells no log-probabilities

    def context_left(self, request: Request, max_new_tokens: int) -> None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        answer = json.dumps({"programlang": ["Ada"], "researcher": ["Ada"]})
        sure, unsure, end = (2.0, 0.0), (0.0, 0.0), (-2.0, None)
        decisions = None if self.silent else {"programlang": [unsure, end], "researcher": [sure, end]}
        return [Completion(answer, decisions=decisions)] * len(requests)


def test_an_entity_may_have_its_likeliest_label_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from iepile_builder.commands import benchmark as command

    asked = []
    monkeypatch.setattr(command, "load_engine", lambda options: asked.append(options.scores) or Torn())
    model = save_tiny_model(tmp_path / "tiny")
    options = ["--model_name_or_path", str(model), "--sets", "CrossNER", "--multi_label"]
    for multi_label, pred in ("true", 4), ("false", 2):
        report = benchmark(data, tmp_path / multi_label, *options, multi_label)
        ai = next(row for row in report["benchmark"]["rows"] if row["corpus"] == "CrossNER_AI")
        assert (ai["pred"], ai["recall"]) == (pred, pytest.approx(100 / 3))
        assert report["benchmark"]["multi_label"] is (multi_label == "true")
        assert report["settings"].get("multi_label", True) is (multi_label == "true")
    assert "one label an entity" in capsys.readouterr().out
    _, ai, _ = benchmark(data, tmp_path / "false", *options, "true")["benchmark"]["rows"]
    assert ai["pred"] == 4
    assert asked == [False, True]  # and nothing is answered anew for scores that are not needed
    monkeypatch.setattr(Torn, "silent", True)
    with pytest.raises(SystemExit, match="CrossNER: its answers have no 'decisions'.*leave out --multi_label false"):
        benchmark(data, tmp_path / "silent", *options, "false")


def test_a_server_answers_and_the_report_says_that_it_was_free_to(data: Path, tmp_path: Path) -> None:
    answer = json.dumps({"researcher": ["Ada", "Joan"], "program language": ["Perl"]})
    with OddServer({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}) as server:
        options = ["--base_url", server.url, "--sets", "CrossNER"]
        report = benchmark(data, tmp_path / "output", *options)
        asked = len(server.bodies)
        assert benchmark(data, tmp_path / "output", *options) == report
    ai = next(row for row in report["benchmark"]["rows"] if row["corpus"] == "CrossNER_AI")
    assert (ai["pred"], ai["precision"], ai["recall"]) == (6, pytest.approx(100 / 3), pytest.approx(200 / 3))
    engine = report["benchmark"]["engine"]
    assert (engine["engine"], engine["model"], engine["constrain"]) == ("server", "m", False)
    assert len(server.bodies) == asked == 4  # three texts, and one to find out whether it takes a schema


def test_records_that_cannot_be_used_are_refused_or_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = {"content": "甲", "events": [{"type": "减持", "mentions": [{"word": " ", "role": "sub"}]}]}
    for name in ("train_base", "train_trans", "test_base"):
        write_lines(data / "FewFC" / "rearranged" / f"{name}.json", [FEWFC, bad])
    output = tmp_path / "output"
    options = ["--engine", "lookup", "--sets", "FewFC", "--hub_dataset", "user/ie"]
    message = r"FewFC/test.json, line 2: 'argument' is ' '.*; --unchecked leaves out"
    with pytest.raises(SystemExit, match=message):
        run("benchmark", ["--data_dir", str(data), "--output_dir", str(output), *options])
    trigger, argument = benchmark(data, output, *options)["benchmark"]["rows"]
    assert (trigger["records"], trigger["f1"], argument["f1"]) == (2, 100, 100)
    assert (trigger["left_out"], argument["left_out"]) == (1, 1)
    assert "FewFC trigger, 1 record left out" in capsys.readouterr().out
    assert (output / ".eval_results" / "benchmark.yaml").read_text().count("1 record left out") == 2


def test_sets_whose_numbers_no_source_tells_are_called_not_checked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (data / "mit").mkdir()
    for name in ("restauranttest", "restauranttrain"):
        (data / "mit" / f"{name}.bio").write_text("B-Dish\tSoup\nO\tplease\n")
    for name in ("train_base", "train_trans"):
        write_lines(data / "FewFC" / "rearranged" / f"{name}.json", [FEWFC])
    options = ["--engine", "lookup", "--sets", "MIT restaurant", "FewFC", "--hub_dataset", "user/ie"]
    run("benchmark", ["--data_dir", str(data), "--output_dir", str(tmp_path / "output"), *options])
    found = json.loads((tmp_path / "output" / "report.json").read_text())["benchmark"]
    assert [row["checked"] for row in found["rows"]] == [False, False, False]
    note = found["notes"]["FewFC"][-1]
    assert "not checked" in note
    assert f"MIT restaurant, FewFC: {note}\n" in capsys.readouterr().out
    results = (tmp_path / "output" / ".eval_results" / "benchmark.yaml").read_text()
    assert " ".join(results.split()).count("numbers of records not checked") == 3


def test_a_run_that_is_refused_writes_no_instances(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    options = ["--engine", "lookup", "--sets", "CrossNER"]
    with locked(output / "report.json"), pytest.raises(SystemExit, match="another run is writing it"):
        benchmark(data, output, *options)
    assert [file.name for file in output.iterdir()] == [".report.json.lock"]
    benchmark(data, output, *options)
    written = {file: file.read_bytes() for file in output.rglob("instances/*")}
    for changed in ["--max_records", "1"], ["--model_name_or_path", str(data)]:
        with pytest.raises(SystemExit, match="give another output"):
            benchmark(data, output, *options, *changed)
    assert written == {file: file.read_bytes() for file in output.rglob("instances/*")}
    assert len(written) == 4


def test_corpora_of_the_same_name_are_reported_apart(data: Path, tmp_path: Path) -> None:
    (data / "mit").mkdir()
    for name in ("engtest", "engtrain"):
        (data / "mit" / f"{name}.bio").write_text("B-ACTOR\tAda\nO\truns\n")
    record = {"text": "Ada runs", "entity": [{"entity": "Ada", "entity_type": "actor"}]}
    write_corpus(data / "IE-en" / "NER" / "mit-movie", [["actor"], [], {}], train=[record], test=[record])
    options = ["--engine", "lookup", "--sets", "MIT movie", "MIT movie (supervised)"]
    report = benchmark(data, tmp_path / "output", *options)
    assert list(report["sources"]) == ["MIT movie (supervised), mit-movie", "MIT movie, mit-movie"]
    assert report["overall"]["records"] == 2


def test_answers_are_scored_against_the_annotation_as_it_is_now(data: Path, tmp_path: Path) -> None:
    instruction = {"instruction": "x", "schema": ["researcher"], "input": "Ada ran."}
    train = {"task": "NER", "instruction": json.dumps(instruction), "output": '{"researcher": ["Ada"]}'}
    write_lines(known := tmp_path / "known.jsonl", [train])
    options = ["--engine", "lookup", "--model_name_or_path", str(known), "--sets", "CrossNER"]
    for annotation, recall in (AI, 100 / 3), (AI.replace("Joan\tB-researcher", "Joan\tO"), 50):
        (data / "CrossNER" / "ner_data" / "ai" / "test.txt").write_text(annotation)
        _, ai, _ = benchmark(data, tmp_path / "output", *options)["benchmark"]["rows"]
        assert ai["recall"] == pytest.approx(recall)


def test_two_processes_give_the_same_report_though_one_has_nothing_to_answer(data: Path, tmp_path: Path) -> None:
    options = ["--data_dir", str(data), "--engine", "lookup", "--sets", "CrossNER", "--unchecked", "--bootstrap", "50"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(ROOT / "scripts" / "benchmark.py"), *options, "--output_dir", str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CrossNER, mean of 2") == 1
    run("benchmark", [*options, "--output_dir", str(tmp_path / "one")])
    assert (tmp_path / "two" / "report.json").read_text() == (tmp_path / "one" / "report.json").read_text()


def test_labels_that_training_has_seen_are_scored_apart(data: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Researcher\nperson\nmusical_instrument\n")
    options = ["--engine", "lookup", "--sets", "CrossNER", "--trained_labels", str(labels)]
    mean, *_ = benchmark(data, tmp_path / "output", *options)["benchmark"]["rows"]
    assert (mean["seen"]["gold"], mean["seen"]["recall"]) == (4, 50)
    assert (mean["unseen"]["gold"], mean["unseen"]["f1"]) == (1, 100)
    mean, *_ = benchmark(data, tmp_path / "output", *options, "--mode", "boundary")["benchmark"]["rows"]
    assert "seen" not in mean  # a mode that ignores labels


def test_labels_that_a_training_recorded_are_found_beside_the_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iepile_builder.commands.benchmark import BenchmarkOptions, find_trained_labels
    from iepile_builder.engines import EngineOptions

    (tmp_path / "training.json").write_text(json.dumps({"labels": {"NER": ["Program_Language"], "RE": ["spouse"]}}))
    options = BenchmarkOptions(data)
    recorded = {"NER": ["Program_Language"], "RE": ["spouse"]}
    assert find_trained_labels(options, EngineOptions("m", str(tmp_path))) == recorded
    assert find_trained_labels(options, EngineOptions(str(tmp_path), str(data))) is None
    monkeypatch.setattr("transformers.utils.hub.cached_file", lambda *_: str(tmp_path / "training.json"))
    assert find_trained_labels(options, EngineOptions("m", "user/adapter")) == recorded
    assert find_trained_labels(options, EngineOptions("m", base_url="http://127.0.0.1:1/v1")) is None
    (tmp_path / "training.json").write_text("{}")
    assert find_trained_labels(options, EngineOptions("m", str(tmp_path))) is None


def test_the_labels_of_the_default_adapter_are_scored_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iepile_builder.commands import benchmark as command

    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "training.json").write_text(json.dumps({"labels": {"NER": ["researcher"]}}))
    shipped = str(save_tiny_model(tmp_path / "tiny")), str(adapter)
    monkeypatch.setattr("iepile_builder.engines.loading.shipped_model", lambda: shipped)
    monkeypatch.setattr(command, "load_engine", lambda options: Torn())
    mean, *_ = benchmark(data, tmp_path / "output", "--sets", "CrossNER")["benchmark"]["rows"]
    assert (mean["seen"]["gold"], mean["unseen"]["gold"]) == (2, 3)


def test_the_report_feeds_the_hub(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    options = ["--engine", "lookup", "--sets", "CrossNER", "--misc", "keep", "--hub_dataset", "user/ie"]
    benchmark(data, output, *options)
    assert not (output / ".eval_results" / "benchmark.yaml").read_text().strip("[]\n")  # no set is complete

    for domain in ("literature", "politics", "science"):
        place = data / "CrossNER" / "ner_data" / domain
        place.mkdir()
        (place / "test.txt").write_text(AI)
        (place / "train.txt").write_text(AI)
    benchmark(data, output, *options)
    (entry,) = parse_eval_result_entries(yaml.safe_load((output / ".eval_results" / "benchmark.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("user/ie", "crossner", 80)
    assert entry.notes == "F1, strict, mean of 5, misc: keep, numbers of records not checked"


def test_the_card_has_the_scores_of_the_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iepile_builder.commands import benchmark as command

    monkeypatch.setattr(command, "load_engine", lambda options: Torn())
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "training.json").write_text(json.dumps({"dataset": "user/data", "labels": {}}))
    model = ["--model_name_or_path", str(save_tiny_model(tmp_path / "tiny"))]
    sets = ["--sets", "CrossNER", "RAMS"]
    report = benchmark(data, tmp_path / "own", *model, "--adapter_name_or_path", str(adapter), *sets)
    facts = ModelFacts(report_file=tmp_path / "own" / "report.json")
    card = model_card("adapter", adapter, "user/a", facts)
    results = ModelCard(str(card)).data.eval_results
    scores = {result.dataset_type: result for result in results}
    mean, ai, music = report["benchmark"]["rows"]
    assert len(results) == 3
    assert scores.keys() == {"CrossNER", "CrossNER_AI", "CrossNER_music"}
    assert scores["CrossNER"].metric_value == round(mean["f1"], 2)
    assert scores["CrossNER"].metric_name == "F1, NER, mean of 2, incomplete"
    assert scores["CrossNER"].dataset_split == "test"
    assert scores["CrossNER_AI"].metric_value == round(ai["f1"], 2)
    arguments = scores["CrossNER"].metric_args
    assert (arguments["split_num"], arguments["misc"], arguments["unchecked"]) == ({"NER": 6}, "drop", True)
    for words in (
        "a few at a time (6 for NER)",
        "The label `misc` of CrossNER was left out. Numbers of records not checked: CrossNER. Not scored: CrossNER "
        "(CrossNER_literature, CrossNER_politics, CrossNER_science), RAMS.",
        "Answers were decoded greedily, with at most 512 tokens, constrained to the JSON schema",
        f"| CrossNER, mean of 2, incomplete | NER | **{mean['f1']:.1f}** n too small |",
    ):
        assert words in card.text

    benchmark(data, tmp_path / "base", *model, *sets)
    benchmark(data, tmp_path / "lookup", "--engine", "lookup", *sets)
    for name, message in ("base", "scores of tiny, not of the adapter"), ("lookup", "of the look-up baseline"):
        with pytest.raises(InputError, match=message):
            model_card("adapter", adapter, "user/a", ModelFacts(report_file=tmp_path / name / "report.json"))
    (adapter / "adapter_config.json").write_text("{ }")
    with pytest.raises(InputError, match="scores of adapter, not of the adapter that is now in"):
        model_card("adapter", adapter, "user/a", facts)


def test_the_hub_gets_task_ids_without_signs(tmp_path: Path) -> None:
    from iepile_builder.commands.benchmark import BenchmarkOptions, write_eval_results

    of_set = {"corpus": "", "complete": True, "corpora": 5, "f1": 50.0, "notes": [], "checked": True}
    names = [("CrossNER (UniversalNER)", ""), ("RAMS", "trigger")]
    rows = [{"set": name, "block": block, **of_set} for name, block in names]
    write_eval_results(BenchmarkOptions(tmp_path, tmp_path, hub_dataset="user/ie"), rows)
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "benchmark.yaml").read_text()))
    assert [entry.task_id for entry in entries] == ["crossner_universalner", "rams_trigger"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sets", "CrossNERR"], "unknown set 'CrossNERR'"),
        (["--suites", "nerd"], "unknown suite 'nerd'"),
        (["--sets", "RAMS", "--suites", "ner"], "none of the sets RAMS is in these suites: leave out --suites"),
        (["--sets", "RAMS", "--engine", "lookup"], "no files of RAMS; --list_sets says"),
        (
            ["--sets", "CrossNER", "--adapter_name_or_path", "no/adapter"],
            "no/adapter: no adapter can be loaded from it",
        ),
        (["--hub_dataset", "user/ie", "--max_records", "1"], "whole sets: leave out --max_records"),
        (["--bootstrap", "0"], "give bootstrap a number"),
        (["--engine", "lookup", "--multi_label", "false"], "which --engine lookup does not give"),
        (["--trained_labels", "nowhere.txt", "--engine", "lookup"], "nowhere.txt"),
        (["--data_dir", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="^error: ") as end:
        run("benchmark", ["--data_dir", str(data), "--output_dir", str(tmp_path / "output"), *options])
    assert message in str(end.value)
    assert "\n" not in str(end.value)


def test_a_file_with_another_number_of_records_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2 records, not the 431 of the published"):
        run("benchmark", ["--data_dir", str(data), "--output_dir", str(tmp_path), "--engine", "lookup"])


def test_the_sets_are_listed_with_their_sources(data: Path, capsys: pytest.CaptureFixture) -> None:
    (data / "FewFC" / "rearranged" / "test_base.json").unlink()
    run("benchmark", ["--data_dir", str(data), "--list_sets", "--suites", "ner", "zh"])
    shown = capsys.readouterr().out
    assert "2 of 5" in shown
    assert "golden-horse/data/weiboNER_2nd_conll.test (missing)" in shown
    assert "FewFC/rearranged/test_base.json (missing)" in shown
    assert "FewFC/rearranged/test_trans.json (missing)" not in shown
    assert "CrossNER/ner_data/ai/test.txt (missing)" not in shown
    assert "IE-zh/EE/ccf_law/test.json" in shown
    assert "RAMS" not in shown
    (unified := data / "IE-en" / "NER" / "mit-movie").mkdir(parents=True)
    (unified / "test.json").touch()
    (data / "mit" / "engtest.bio").unlink(missing_ok=True)
    run("benchmark", ["--data_dir", str(data), "--list_sets", "--sets", "MIT movie"])
    assert "IE-en/NER/mit-movie/test.json" in (shown := capsys.readouterr().out) and "engtest.bio" not in shown
