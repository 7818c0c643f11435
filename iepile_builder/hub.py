"""The card of a dataset repository, and pushing it to the Hub."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from iepile_builder.corpus import Corpus
from iepile_builder.errors import InputError
from iepile_builder.tasks import TASKS


CITATION = """@inproceedings{gui-etal-2024-iepile,
  title = {{IEP}ile: Unearthing Large Scale Schema-Conditioned Information Extraction Corpus},
  author = {Gui, Honghao and Yuan, Lin and Ye, Hongbin and Zhang, Ningyu and Sun, Mengshu and Liang, Lei and
            Chen, Huajun},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics (Volume 2)},
  year = {2024},
  url = {https://huggingface.co/papers/2402.14710}
}"""
SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7}


def data_files(splits: Sequence[str], folder: str) -> list[dict[str, str]]:
    """The files of each split of a config; `folder` may be a pattern."""
    return [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in splits]


def dataset_card(
    corpora: Sequence[Corpus],
    counts: dict[str, Counter[tuple[str, str, str]]],
    report: list[dict[str, Any]],
    command: str,
    licenses: dict[str, str],
    name: str,
    notes: Sequence[str] = (),
    plots: Sequence[Path] = (),
) -> DatasetCard:
    """
    The card of a built dataset, with a config for each task, for each task and language, and one of all.

    Args:
        corpora (`Sequence[Corpus]`):
            What it was built from.
        counts (`dict[str, Counter]`):
            For each split, the number of instances of each task, language and corpus.
        report (`list[dict[str, Any]]`):
            What was read and left out, from [`IEPile.report`].
        command (`str`):
            The command that built it.
        licenses (`dict[str, str]`):
            Corpus to licence, as far as they are known.
        name (`str`):
            What `load_dataset` opens it by.
        notes (`Sequence[str]`, *optional*):
            Further sentences on how it was built.
        plots (`Sequence[Path]`, *optional*):
            PNG files of the `statistics` folder beside the card.
    """
    splits_of: dict[str, list[str]] = {}
    for split, of_split in counts.items():
        for task, language, _ in of_split:
            for folder in (f"{task}-*", f"{task}-{language}"):
                if split not in splits_of.setdefault(folder, []):
                    splits_of[folder].append(split)
    configs: list[dict[str, Any]] = [
        {"config_name": "default", "data_files": data_files(list(counts), "*"), "default": True}
    ]
    for folder, splits in sorted(splits_of.items(), key=lambda each: (not each[0].endswith("*"), each[0])):
        configs.append({"config_name": folder.removesuffix("-*"), "data_files": data_files(splits, folder)})
    total = sum(of_split.total() for of_split in counts.values())
    data = DatasetCardData(
        configs=configs,
        language=sorted({corpus.language for corpus in corpora}),
        task_categories=["token-classification", "text-generation"],
        tags=["information-extraction", "iepile", *sorted({corpus.task for corpus in corpora})],
        size_categories=next((name for name, limit in SIZES.items() if total < limit), "n>10M"),
        license="other",
    )
    lines = [
        "# Schema-based information extraction as instructions",
        "",
        "Every row asks for a few labels of a corpus's schema in one text and holds the answer as JSON: the batched,",
        "hard-negative instructions of [IEPile](https://huggingface.co/papers/2402.14710), built by `iepile-builder`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'dataset = load_dataset("{name}", "{configs[-1]["config_name"]}")',
        "```",
        "",
        "| column | |",
        "|---|---|",
        "| `instruction` | what a model is asked: JSON with `instruction`, `schema` and `input` |",
        "| `output` | the reference answer: JSON, a key for each label of the schema |",
        "| `label` | the whole annotation of the record as JSON, for scoring |",
        "| `id` | the record; its instances share it |",
        "| `task`, `source`, `language` | where the record comes from |",
        "",
        "Configs: " + ", ".join(f"`{config['config_name']}`" for config in configs) + ".",
        "",
        "## Instances",
        "",
        *table(
            ["task", "language", "corpus", "licence", "labels", *counts],
            [
                [
                    corpus.task,
                    corpus.language,
                    corpus.source,
                    licenses.get(corpus.source, "not stated"),
                    len(TASKS[corpus.task].labels(corpus.schema)),
                    *(f"{of[corpus.task, corpus.language, corpus.source]:,}" for of in counts.values()),
                ]
                for corpus in corpora
            ],
        ),
        "",
        "The licence of a corpus holds for what was built from it.",
        "",
        "## How it was built",
        "",
        "```bash",
        command,
        "```",
        "",
        *notes,
        "",
        *report_table(report),
        "",
    ]
    if plots:
        lines += ["## Statistics of the training split", ""]
        lines += [f"![{plot.stem}](statistics/{plot.name})" for plot in plots] + [""]
    lines += ["## Labels", ""]
    for corpus in corpora:
        names = ", ".join(f"`{label}`" for label in TASKS[corpus.task].labels(corpus.schema))
        lines += ["<details>", f"<summary>{corpus.source} ({corpus.task})</summary>", "", names, "", "</details>", ""]
    lines += [
        "## Citation",
        "",
        "The method and the format are those of IEPile:",
        "",
        "```bibtex",
        CITATION,
        "```",
        "",
    ]
    return DatasetCard(f"---\n{data}\n---\n\n" + "\n".join(lines))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)]


def report_table(report: list[dict[str, Any]]) -> list[str]:
    """What was read and left out of each corpus and split, as a Markdown table."""
    reasons = list(dict.fromkeys(name for of_split in report for name in of_split))
    return table(reasons, [[of_split.get(name, 0) for name in reasons] for of_split in report if of_split["given"]])


def push_dataset(folder: Path, repo_id: str, private: bool) -> str:
    """
    Push a built folder to a dataset repository on the Hub.

    Args:
        folder (`Path`):
            What `scripts/build_dataset.py --format parquet` wrote.
        repo_id (`str`):
            The repository; it is made if there is none.
        private (`bool`):
            Whether a new repository is private.

    Returns:
        `str`: its address.

    Raises:
        `InputError`: if the Hub cannot be reached or does not take it.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Upload dataset",
            delete_patterns="data/*",  # of a build before this one
        )
    except (OSError, ValueError) as error:  # no token, no such name, no connection
        message = str(error).strip().splitlines()[0]
        raise InputError(f"{repo_id}: could not be pushed ({message}); the dataset is in {folder}") from None
    return str(address)
