"""Describe what answers, so that a file of answers is never continued by something else."""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from iepile_builder.engines import EngineOptions, choose_model, find_empty_bias
from iepile_builder.engines.loading import check_name
from iepile_builder.errors import InputError
from iepile_builder.io import first_line, hash_file
from iepile_builder.tasks import TASKS


# The files of a model or adapter that decide its answers
_FILES = (
    "*.safetensors", "*.bin", "config.json", "generation_config.json", "adapter_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
)  # fmt: skip


def run_file(answers: Path) -> Path:
    """Name the record of the run that wrote a file of answers: `preds.run.json` for `preds.jsonl`."""
    return answers.with_name(f"{answers.stem}.run.json" if answers.suffix == ".jsonl" else f"{answers.name}.run")


def describe_engine(options: EngineOptions) -> dict[str, Any]:
    """
    Describe an engine by everything that its answers depend on: the model and adapter, with the commit on the Hub or a
    hash of the files in the folder, and the options that change answers. A model on a server, or a dataset on the Hub
    for `lookup`, is known by its name alone.

    Raises:
        `InputError`: If there is no such model, adapter or chat template.
    """
    choose_model(options)
    copied: bool | list[str] | None = options.copied_in_force
    if copied is None:
        copied = [task.name for task in TASKS.values() if task.copied]
    decoding: dict[str, Any] = {"copied": copied, "max_new_tokens": options.max_new_tokens}
    # Only where they are used: records of before know neither
    if options.scores:
        decoding["scores"] = True
    if bias := find_empty_bias(options):
        decoding["empty_bias"] = bias
    if options.base_url is not None:
        from iepile_builder.engines.endpoint import EndpointEngine

        model = options.model_name_or_path or EndpointEngine(options.base_url).model
        return {"engine": "server", "model": model, "constrain": options.constrain != "off"} | decoding
    assert options.model_name_or_path is not None  # chosen above
    engine: dict[str, Any] = {"engine": options.engine, "model": options.model_name_or_path}
    if options.engine == "lookup":
        place = Path(options.model_name_or_path)
        files = [place] if place.is_file() else sorted((*place.rglob("*.jsonl"), *place.rglob("*.parquet")))
        return engine | ({"model_version": _hash(files)} if files else {})
    engine["model_version"] = find_version(options.model_name_or_path, "config.json")
    if options.adapter_name_or_path is not None:
        engine["adapter"] = options.adapter_name_or_path
        engine["adapter_version"] = find_version(options.adapter_name_or_path, "adapter_config.json")
    if options.chat_template_path is not None:
        engine["chat_template"] = _hash([Path(options.chat_template_path)])
    for name in ("dtype", "load_in_4bit", "load_in_8bit", "attn_implementation"):
        engine[name] = getattr(options, name)
    if options.vllm_args and "quantization" in options.vllm_args:
        engine["quantization"] = options.vllm_args["quantization"]
    if options.engine != "vllm" and find_spec("llguidance") is None:
        return engine | {"constrain": False} | decoding | {"copied": False}
    return engine | {"constrain": options.constrain != "off"} | decoding


def find_differences(record: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """
    List, in words, the differences between two descriptions of [`describe_engine`].

    A model or adapter is the same where its version is, whatever it is called.
    """
    found = []
    for name in dict.fromkeys((*record, *other)):
        if name.endswith("_version"):
            continue
        version = f"{name}_version"
        key = version if version in record and version in other else name
        if record.get(key) == other.get(key):
            continue
        one, two = record.get(name), other.get(name)
        if one == two:
            one, two = f"{one} ({record[version]})", f"{two} ({other[version]})"
        found.append(f"{name} {one}, not {two}")
    return found


def find_version(name: str, file: str) -> str:
    """Find the commit of a repository on the Hub, or a hash of the files in a folder."""
    folder = Path(name)
    if folder.is_dir():
        return _hash(sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}))
    check_name(name)
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        path: Any = cached_file(name, file)
    except OSError as error:
        raise InputError(f"{name}: no model can be loaded from it: {first_line(error)}") from None
    return f"commit {extract_commit_hash(path, None)}"


def _hash(files: list[Path]) -> str:
    """Hash files with their names."""
    try:
        digest = sha256("".join(f"{path.name} {hash_file(path)}\n" for path in files).encode())
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    return f"sha256 {digest.hexdigest()[:16]}"
