"""F1 of schema-based information extraction, as an `evaluate` module; the scoring is `iepile_builder.scoring`."""

import datasets
import evaluate

from iepile_builder.scoring import Matching, Scorer


_CITATION = """\
@inproceedings{gui-etal-2024-iepile,
    title = {{IEPile}: Unearthing Large Scale Schema-Conditioned Information Extraction Corpus},
    author = {Gui, Honghao and Yuan, Lin and Ye, Hongbin and Zhang, Ningyu and Sun, Mengshu and Liang, Lei and
              Chen, Huajun},
    booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics
                 (Volume 2: Short Papers)},
    year = {2024},
    pages = {127--146},
}
"""

_DESCRIPTION = """\
Precision, recall and F1 over the facts (entities, relations, event triggers and arguments, attributes) in the JSON
answers of a language model to schema batches, against a record's annotation. The batches of a record are merged by
task, source, id, annotation and text.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): the model's answers, one for each instruction.
    references (`list[str]`): the record's whole annotation in JSON (the column `label`), one for each instruction.
    tasks (`list[str]`): the task of each instruction, one of NER, RE, SPO, EE, EET, EEA and KG.
    sources (`list[str]`): the corpus of each instruction.
    ids (`list[str]`): the record of each instruction.
    instructions (`list[str]`): the instructions.
    by (`str`, *optional*): `"task"`, `"source"`, `"language"` or `"label"` for only this part of the report.
    repair (`bool`, *optional*, defaults to `False`): also read answers that are only nearly JSON.
    bootstrap (`int`, *optional*, defaults to 0): resamples of the records for intervals; 0 for none.
    confidence (`float`, *optional*, defaults to 0.95): confidence of the intervals.
    seed (`int`, *optional*, defaults to 0): seed of the resamples.
    matching: the options of `iepile_builder.scoring.Matching`, by which a predicted fact matches a gold fact:
        `mode` (`"strict"`, `"set"`, `"normalized"`, `"squad"`, `"boundary"`, `"type"`, `"partial"` or `"grounded"`),
        `min_overlap`, `entity_types` and `linked`.
Returns:
    `dict`: `overall`, `tasks`, `sources`, `languages`, `labels` and `macro`; in each `precision`, `recall`, `f1`
    (percentages), `tp`, `pred`, `gold`, `records`, `answers`, `unparsed`, `repaired`, `outside_schema`, `not_in_text`
    and `gold_not_in_text`, for EE and EEA in the blocks `trigger` and `argument`; `intervals` if there are resamples.
Examples:
    >>> metric = evaluate.load("evaluate_metrics/ie_f1")
    >>> example = {
    ...     "predictions": ['{"person": ["Ada Lovelace"], "city": []}'],
    ...     "references": ['[{"entity": "Ada Lovelace", "entity_type": "person"}, '
    ...                    '{"entity": "London", "entity_type": "city"}]'],
    ...     "tasks": ["NER"],
    ...     "sources": ["example"],
    ...     "ids": ["1"],
    ...     "instructions": ['{"instruction": "Extract the entities.", "schema": ["person", "city"], '
    ...                      '"input": "Ada Lovelace was born in London."}'],
    ... }
    >>> report = metric.compute(**example)
    >>> round(report["overall"]["f1"], 1)
    66.7
    >>> report = metric.compute(**example, by="label")
    >>> report["NER"]["person"]["recall"]
    100.0
    >>> example["predictions"] = ['{"person": ["Ada"], "city": ["London"]}']
    >>> metric.compute(**example, mode="partial")["overall"]["f1"]
    75.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class IEF1(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        columns = ("predictions", "references", "tasks", "sources", "ids", "instructions")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({column: datasets.Value("string") for column in columns}),
            reference_urls=["https://huggingface.co/papers/2402.14710"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        tasks: list[str],
        sources: list[str],
        ids: list[str],
        instructions: list[str],
        by: str | None = None,
        repair: bool = False,
        bootstrap: int = 0,
        confidence: float = 0.95,
        seed: int = 0,
        **matching: str | float,
    ) -> dict:
        scorer = Scorer(repair)
        columns = ("output", "label", "task", "source", "id", "instruction")
        for row in zip(predictions, references, tasks, sources, ids, instructions, strict=True):
            scorer.add(dict(zip(columns, row, strict=True)))
        report = scorer.report(Matching(**matching), bootstrap, confidence, seed)
        return report if by is None else report[f"{by}s"]
