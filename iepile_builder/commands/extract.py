"""
Extract from a text what a schema asks for, for the terminal or as a page, JSON or a graph.

    iepile extract --text "Ada Lovelace lived in London." --schema '["person", "city"]'
    iepile extract --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter \\
        --text "Thomas Edison's laboratory is in West Orange." \\
        --task RE --schema '["place of birth", "founder", "located in"]' \\
        --output_file outputs/edison.html outputs/edison.ttl

The text, of any length, comes from `--text`, from `--file` (plain text, PDF, HTML or DOCX; facts in a PDF have their
page), or from the standard input (`--file -`, or neither). The schema is JSON, a JSON file, or a corpus's
`schema.json`: a list of labels, a dictionary from label to description, or for EE, EEA and KG one from type to roles.
Without `--task` it may ask for several tasks at once:

    --schema '{"entities": ["person"], "relations": {"founder": "who founded it"}, "events": {"resign": ["employee"]}}'
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iepile_builder.answers.scores import Calibration
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.base import Engine
from iepile_builder.engines.loading import find_calibration
from iepile_builder.errors import InputError
from iepile_builder.extraction.documents import read_document
from iepile_builder.extraction.export import check_file
from iepile_builder.extraction.extractor import Extractor
from iepile_builder.extraction.user_schema import open_schema, read_schema, read_tasks
from iepile_builder.io import SURROGATE, read_objects


@dataclass
class ExtractOptions:
    """
    Text, schema and output.

    Args:
        schema (`list | dict | str`):
            Labels to extract, as JSON or as a JSON file.
        task (`str`, *optional*):
            NER, RE, SPO, EE, EET, EEA or KG; by default NER, unless the schema has several tasks.
        text (`str`, *optional*):
            The text, by default from the standard input.
        file (`Path`, *optional*):
            A file with the text: .pdf, .html, .docx, or plain text; - is the standard input.
        triggers (`dict[str, list[str]]`, *optional*):
            For EEA, JSON: event type to triggers.
        examples (`Path`, *optional*):
            JSON lines with annotated records to show the model.
        language (`str`, *optional*):
            Code of the text's language, such as de; by default zh or en. The instructions are Chinese for zh,
            English for all others.
        split_num (`int`, *optional*):
            Labels in one instruction, -1 for all; by default the task's.
        passage_tokens (`int`, *optional*, defaults to 384):
            Maximum number of tokens in a passage.
        drop_ungrounded (`bool`, *optional*, defaults to `False`):
            Leave out facts with a string that is not in the text.
        min_score (`float`, *optional*, defaults to 0.0):
            Leave out facts with a lower score, from 0 to 1. `--scores` alone shows the scores.
        multi_label (`bool`, *optional*, defaults to `False`):
            Give an entity all labels that the model gives it, not only the likeliest.
        output_file (`list[Path]`, *optional*, defaults to `[]`):
            Files to write: .html (a page), .json, the graph as .graphml, .cypher or .ttl, or .zip (a training record
            for `iepile build`, to be corrected); - prints the JSON alone.
    """

    schema: list | dict | str
    task: str | None = None
    text: str | None = None
    file: Path | None = None
    triggers: dict[str, list[str]] | None = None
    examples: Path | None = None
    language: str | None = None
    split_num: int | None = None
    passage_tokens: int = 384
    drop_ungrounded: bool = False
    min_score: float = 0.0
    multi_label: bool = False
    output_file: list[Path] = field(default_factory=list)


OPTIONS = (ExtractOptions, EngineOptions)


def main(options: ExtractOptions, engine_options: EngineOptions) -> None:
    files = [file for file in options.output_file if str(file) != "-"]
    schema_file = options.schema if isinstance(options.schema, str) else None
    for file in files:
        check_file(file, [options.file, options.examples, schema_file])
    text = read_text(options)
    schema = open_schema(options.schema, options.task)
    described = isinstance(schema, dict) and any(isinstance(each, str) for each in schema.values())
    several = options.task is None and isinstance(schema, dict) and not described
    schemas = schema if several else {options.task or "NER": schema}
    for key, task in read_tasks(schemas).items():
        read_schema(schemas[key], task.name)  # its errors come before a model is loaded
    examples = [] if options.examples is None else [row for _, row in read_objects(options.examples)]
    if options.min_score > 0:
        engine_options.scores = True
    extractor = make_extractor(
        load_engine(engine_options),
        engine_options,
        passage_tokens=options.passage_tokens,
        drop_ungrounded=options.drop_ungrounded,
        min_score=options.min_score,
        multi_label=options.multi_label,
        progress=True,
    )
    result = extractor(
        text,
        *((schema,) if several else next(iter(schemas.items()))),
        examples=examples,
        language=options.language,
        triggers=options.triggers,
        split_num=options.split_num,
    )

    for file in files:
        result.save(file)
    if len(files) < len(options.output_file):
        print(result.to_json())
        return
    from iepile_builder.extraction.terminal import show

    show(result)


def make_extractor(engine: Engine, options: EngineOptions, **settings: Any) -> Extractor:
    """Make an extractor that asks an engine as its options say, with the calibration of its model."""
    return Extractor(
        engine,
        max_new_tokens=options.max_new_tokens,
        constrained=options.constrain != "off",
        copied=options.copied_in_force,
        calibration=read_calibration(options),
        **settings,
    )


def read_calibration(options: EngineOptions) -> Calibration | None:
    """Read the calibration of the model, if it has one and is not on a server."""
    if options.base_url is not None:
        return None
    return find_calibration(options.model_name_or_path, options.adapter_name_or_path)


def read_text(options: ExtractOptions) -> str:
    """Read the text from the option, the file or the standard input."""
    if options.text is not None and options.file is not None:
        raise InputError("give --text or --file, not both")
    if options.text is not None:
        if SURROGATE.search(options.text):  # as Python reads bytes that are not UTF-8
            raise InputError("--text: not UTF-8")
        return options.text
    if options.file is not None and str(options.file) != "-":
        return read_document(options.file)
    try:
        waits = options.file is None and sys.stdin.isatty()  # for a user who forgot the text
        text = "" if waits else sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the standard input: not UTF-8 ({error.reason})") from None
    if not text.strip():
        raise InputError("no text given: --text, --file or standard input")
    return text
