"""Files that are found by name, files that must not be written, and why a line cannot be read."""

import gzip
from pathlib import Path

import pytest
from helpers.corpora import ROOT

from iepile_builder import metric_path
from iepile_builder.engines import EngineOptions
from iepile_builder.errors import InputError
from iepile_builder.io import check_output, find_adapter, find_resource, read_json


def test_a_resource_is_found_by_name_or_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "qwen3-4b/sft/config_lora.yaml"
    recipe = (ROOT / "recipes" / name).resolve()
    assert find_resource("recipes", name) == recipe
    assert find_resource("recipes", f"recipes/{name}") == recipe
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_resource("recipes", name) == Path(name), "a file that exists comes first"
    assert metric_path() == str(ROOT.resolve() / "evaluate_metrics" / "ie_f1" / "ie_f1.py")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("qwen3-4b/sft/config.yaml", "qwen3-4b/sft/config_full.yaml, qwen3-4b/sft/config_lora.yaml"),
        ("qwen/sft/config.yaml", "qwen3-4b, qwen3-8b"),
        ("../config.yaml", "qwen3-4b, qwen3-8b"),
        ("/nowhere/config.yaml", "qwen3-4b, qwen3-8b"),
    ],
)
def test_an_unknown_name_lists_what_there_is(name: str, names: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: no such file.*{names}") as caught:
        find_resource("recipes", name)
    assert "\n" not in str(caught.value)


def test_a_recipes_adapter_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "smollm2-135m-instruct/zero_shot/adapter"
    shipped = find_adapter(name)
    assert Path(shipped, "adapter_model.safetensors").is_file()
    assert EngineOptions("m", name).adapter_name_or_path == shipped
    monkeypatch.chdir(tmp_path)
    for other in ("user/adapter", str(tmp_path), "smollm2-135m-instruct/zero_shot"):
        assert find_adapter(other) == other
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "adapter_config.json").touch()
    assert find_adapter(name) == name, "a folder that exists comes first"


@pytest.mark.parametrize(
    ("output", "place", "message"),
    [
        ("in.json", "in.json", "the output file is the input in.json"),
        ("sub/../in.json", "in.json", "the output file is the input in.json"),
        ("link.json", "in.json", "the output file is the input in.json"),
        ("in.json", "link.json", "the output file is the input link.json"),
        ("hard.json", "in.json", "the output file is the input in.json"),
        ("sub/deep/new.json", "sub", "the output file lies under the input folder sub"),
        ("link/new.json", "sub", "the output file lies under the input folder sub"),
        ("new.json", ".", "the output file lies under the input folder ."),
        ("new.json", "in.json", None),
        ("subway.json", "sub", None),
        ("in.json", "user/dataset", None),
        ("in.json", '["a label"]' * 1000, None),
        ("in.json", None, None),
    ],
)
def test_no_input_is_overwritten(
    output: str, place: str | None, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("in.json").write_text("{}")
    Path("link.json").symlink_to("in.json")
    Path("hard.json").hardlink_to("in.json")
    Path("link").symlink_to("sub")
    if message is None:
        check_output(Path(output), [None, place])
        return
    with pytest.raises(InputError) as refused:
        check_output(Path(output), [None, place])
    assert str(refused.value) == f"{output}: {message}; give another file"
    assert not Path("sub", "deep").exists()


HALF = "half of a surrogate pair, which is no character, at line 1 column 8 (char 7): delete it"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (gzip.compress(b"{}"), "a compressed file: unpack it first"),
        ("{}".encode("utf-16"), "not UTF-8, invalid start byte at byte 1: save the file as UTF-8"),
        ('{"a": "Köln"}'.encode("latin-1"), "not UTF-8, invalid start byte at byte 9: save the file as UTF-8"),
        (
            rb'{"a": "\ud800"}',
            HALF,
        ),
        (
            rb'{"a": "\udc00"}',
            HALF,
        ),
        (b"[" * 10**5, "depth limit exceeded: line 1 column 1026 (char 1025)"),
        (b'{"a": ', "unexpected end of data: line 1 column 7 (char 6)"),
    ],
    ids=["gzip", "UTF-16", "Latin-1", "high", "low", "deep", "cut"],
)
def test_why_a_line_is_no_json(line: bytes, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        read_json(line)
    assert str(refused.value) == f"not one JSON object a line ({reason})"
