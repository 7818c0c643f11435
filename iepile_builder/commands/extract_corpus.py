"""
Extract from all documents of a corpus, into Parquet, on one machine or many.

    iepile extract-corpus --documents 'news/*.parquet' --schema '["person", "place"]' --output_dir outputs/news \\
        --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter
    iepile extract-corpus --documents s3://bucket/news --schema schema.json --output_dir s3://bucket/facts \\
        --model_name_or_path Qwen/Qwen3-4B --engine vllm --ray_address auto

One process answers by default; `--num_workers` starts several on this machine and `--ray_address` uses a Ray cluster
(`pip install 'iepile-builder[ray]'`). Each document becomes a row of `data/*.parquet`: its facts with label, strings,
offsets, match and score, counts of what went wrong in the model's answers, and an `error` where it failed.
`datasets.load_dataset(output_dir)` reads them, in the order of the input. The same command resumes a run that was
killed, and `report.json` says how it went.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from iepile_builder.commands.extract import make_extractor, read_calibration
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.base import Engine
from iepile_builder.engines.record import describe_engine, find_differences
from iepile_builder.errors import InputError
from iepile_builder.extraction.cluster import ClusterOptions, answer_on_ray, connected
from iepile_builder.extraction.corpus import Answerer, Ledger, Result, make_parcels
from iepile_builder.extraction.corpus_files import DocumentOptions, check_not_among_documents, find_pieces
from iepile_builder.extraction.shards import BEGUN, CARD, Shards
from iepile_builder.extraction.user_schema import open_schema, read_examples, read_schema
from iepile_builder.io import locked, read_objects
from iepile_builder.tasks import find_task


@dataclass
class ExtractCorpusOptions:
    """
    Schema and output.

    Args:
        output_dir (`str`):
            Folder to write or to resume, empty or of an earlier run, apart from the documents; also on another file
            system such as `s3://bucket/facts`.
        schema (`list | dict | str`, *optional*):
            Labels to extract, as JSON or as a JSON file, unless documents have their own.
        task (`str`, *optional*, defaults to `"NER"`):
            NER, RE, SPO, EE, EET or KG.
        examples (`Path`, *optional*):
            JSON lines with annotated records to show the model.
        split_num (`int`, *optional*):
            Labels in one instruction, -1 for all; by default the task's.
        passage_tokens (`int`, *optional*, defaults to 384):
            Maximum number of tokens in a passage.
        drop_ungrounded (`bool`, *optional*, defaults to `False`):
            Leave out facts with a string that is not in the text.
        min_score (`float`, *optional*, defaults to 0.0):
            Leave out facts with a lower score, from 0 to 1. `--scores` alone writes the scores.
        multi_label (`bool`, *optional*, defaults to `False`):
            Give an entity all labels that the model gives it, not only the likeliest.
        keep_text (`bool`, *optional*, defaults to `False`):
            Write the text as well.
        shard_size (`int`, *optional*, defaults to 1000):
            Documents in a Parquet file.
        documents_at_once (`int`, *optional*):
            Documents that a worker is given at once; by default 512 with vLLM or a GPU in this machine, 2 for each
            request on its way to a server, at least 64.
        max_failures (`int`, *optional*, defaults to 100):
            Stop after so many documents in a row without an answer, as when a server is down; 0 for never.
        retry_failed (`bool`, *optional*, defaults to `False`):
            Answer the shards that have a failed document again.
        overwrite (`bool`, *optional*, defaults to `False`):
            Remove the shards of an earlier run first, and answer all documents again.
    """

    output_dir: str
    schema: list | dict | str | None = None
    task: str = "NER"
    examples: Path | None = None
    split_num: int | None = None
    passage_tokens: int = 384
    drop_ungrounded: bool = False
    min_score: float = 0.0
    multi_label: bool = False
    keep_text: bool = False
    shard_size: int = 1000
    documents_at_once: int | None = None
    max_failures: int = 100
    retry_failed: bool = False
    overwrite: bool = False


OPTIONS = (DocumentOptions, ExtractCorpusOptions, ClusterOptions, EngineOptions)


def main(
    documents: DocumentOptions, options: ExtractCorpusOptions, cluster: ClusterOptions, engine_options: EngineOptions
) -> None:
    extract_corpus(documents, options, cluster, engine_options)


def extract_corpus(
    documents: DocumentOptions,
    options: ExtractCorpusOptions,
    cluster: ClusterOptions,
    engine_options: EngineOptions,
    description: dict[str, Any] | None = None,
    load: Callable[[EngineOptions], Engine] = load_engine,
) -> dict[str, Any]:
    """
    Extract from the documents that have no row yet; returns the report.

    `description` is that of [`describe_engine`] for an engine of one's own, which `load` makes.

    Raises:
        `InputError`: If the options are wrong, or there are rows of another engine or of other documents.
    """
    at_once = options.documents_at_once
    if at_once is None:
        at_once = _choose_documents_at_once(engine_options)
        options = replace(options, documents_at_once=at_once)
    asked = read_asked(documents, options)
    if options.min_score > 0:
        engine_options.scores = True
    pieces, content = find_pieces(documents)
    calibration = read_calibration(engine_options) if engine_options.scores else None
    scaling = calibration and calibration.score.get(options.task)
    run = {
        **(description or describe_engine(engine_options)),
        **({"score_scaling": [*scaling]} if scaling else {}),
        "documents": documents.documents,
        "documents_version": content,
        "columns": documents.columns,
        "task": options.task,
        "schema": orjson.dumps(asked["schema"]).decode(),
        "examples": len(asked["examples"]),
        **{
            name: getattr(options, name)
            for name in (
                "split_num",
                "passage_tokens",
                "drop_ungrounded",
                "min_score",
                "multi_label",
                "keep_text",
                "shard_size",
            )
        },
        "documents_at_once": at_once,
    }

    shards = Shards(options.output_dir, options.shard_size, options.keep_text, options.max_failures)
    check_not_among_documents(documents, pieces, options.output_dir)
    shards.find_run()  # before a lock file is put into a folder of something else
    with ExitStack() as stack:
        if isinstance(shards.system, LocalFileSystem):
            stack.enter_context(locked(Path(shards.path, "run.json")))
        earlier = shards.find_run()
        differences = "; ".join(each[:200] for each in find_differences(earlier, run)) if earlier else ""
        if earlier is not None and (options.overwrite or (differences and not shards.find_receipts())):
            shards.remove()
            earlier = None
        if earlier is not None:
            if differences:
                raise InputError(
                    f"{options.output_dir}: its rows were made with {differences}: give another --output_dir, or "
                    "--overwrite"
                )
            shards.resume(options.retry_failed)
        else:
            shards.write("run.json", json.dumps(run, ensure_ascii=False, indent=2).encode())
        if shards.read("README.md") is None:
            shards.write("README.md", CARD.encode())
        if before := shards.totals["documents"]:
            print(f"{options.output_dir}: {before} documents are answered already", file=sys.stderr)

        start = time.monotonic()
        read = partial(make_parcels, documents, options.shard_size, at_once, options.keep_text)
        if cluster.uses_ray:  # whose processes have another working directory
            engine_options = replace(engine_options)
            for name in ("model_name_or_path", "adapter_name_or_path", "chat_template_path"):
                path = getattr(engine_options, name)
                if path is not None and Path(path).exists():
                    setattr(engine_options, name, str(Path(path).resolve()))
        build = partial(build_answerer, options=options, engine_options=engine_options, asked=asked, load=load)
        todo = [
            (number, piece, shards.done.get(number, set()))
            for number, piece in enumerate(pieces)
            if number not in shards.ended
        ]
        results: Iterator[Result] = iter(())
        if todo and cluster.uses_ray:
            stack.enter_context(connected(cluster))
            gpus = engine_options.base_url is None and engine_options.engine != "lookup"
            results = answer_on_ray(todo, read, build, cluster, gpus)
        elif todo:
            # in case this process is killed by a document
            ledger = Ledger(lambda content: shards.write(BEGUN, content.encode()), shards.find_begun())
            answer = build(ledger.begin, ledger.end)
            results = (answer(parcel) for each in todo for parcel in read(each))
        with tqdm(unit="document", desc="Extracting", initial=before, disable=None) as bar:
            for result in results:
                bar.update(shards.add(result))
        shards.check_complete(len(pieces))
        report = make_report(shards, before, time.monotonic() - start)
        shards.write("report.json", json.dumps(report, indent=2).encode())
    print(describe_report(report, options.output_dir), file=sys.stderr)
    return report


def _choose_documents_at_once(options: EngineOptions) -> int:
    """Choose how many documents keep an engine busy: they are dealt out before it is loaded, perhaps elsewhere."""
    if options.base_url is not None:
        return max(64, 2 * options.concurrency)
    import torch

    is_on_gpu = options.engine == "vllm" or (options.engine == "transformers" and torch.cuda.is_available())
    return 512 if is_on_gpu else 64


def read_asked(documents: DocumentOptions, options: ExtractCorpusOptions) -> dict[str, Any]:
    """Check what is to be asked for, before a model is loaded."""
    for name, least in (("shard_size", 1), ("documents_at_once", 1), ("max_failures", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; give a number from {least} on")
    if not 0 <= options.min_score <= 1:
        raise InputError(f"--min_score is {options.min_score}; give a number from 0 to 1")
    if find_task(options.task).triggers_given:
        raise InputError(f"{options.task} asks for the arguments of known events, which documents do not have: use EE")
    if (options.schema is None) == (documents.schema_column is None):
        raise InputError("give --schema, or --schema_column where each document has its own")
    schema = open_schema(options.schema, options.task)  # a file, which other machines may not have
    if schema is not None:
        read_schema(schema, options.task)
    examples = [] if options.examples is None else [row for _, row in read_objects(options.examples)]
    read_examples(examples, options.task)
    return {"schema": schema, "examples": examples, "split_num": options.split_num}


def build_answerer(
    begin: Callable[[str], int],
    end: Callable[[Sequence[str]], object],
    options: ExtractCorpusOptions,
    engine_options: EngineOptions,
    asked: dict[str, Any],
    load: Callable[[EngineOptions], Engine],
) -> Answerer:
    """Load the model."""
    extractor = make_extractor(
        load(engine_options),
        engine_options,
        passage_tokens=options.passage_tokens,
        drop_ungrounded=options.drop_ungrounded,
        min_score=options.min_score,
        multi_label=options.multi_label,
    )
    return Answerer(extractor, options.task, asked, begin, end)


def make_report(shards: Shards, before: int, seconds: float) -> dict[str, Any]:
    """Report what is in the shards, and what this run did: `run` is `None` for tokens that the engine cannot count."""
    answered = shards.totals["documents"] - before
    tokens = {name: shards.usage.get(name) for name in ("requests", "prompt_tokens", "answer_tokens")}
    return {
        **shards.totals,
        "run": {
            "documents": answered,
            "seconds": round(seconds, 3),
            "documents_per_second": round(answered / seconds, 3),
            **tokens,
        },
    }


def describe_report(report: dict[str, Any], output_dir: str) -> str:
    """Say in a few lines what a report says."""
    run = report["run"]
    lines = [
        f"{report['documents']} documents, {report['facts']} facts: {output_dir}",
        f"{run['documents']} of them now, {run['documents_per_second']:.4g} a second",
    ]
    if run["prompt_tokens"] is not None:
        lines[-1] += f"; {run['prompt_tokens']} tokens read, {run['answer_tokens']} written"
    if report["failed"]:
        lines.append(f"{report['failed']} failed: their rows have an error; --retry_failed answers their shards again")
    return "\n".join(lines)
