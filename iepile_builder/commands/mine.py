"""
Mine the hard negatives of a schema: a dictionary for `iepile build --hard_negatives`.

    iepile mine --corpus_dir sample_corpus --method lexical --top_k 3 --output_file outputs/hard_negatives.json
    iepile build --corpus_dir sample_corpus --hard_negatives outputs/hard_negatives.json --output_dir outputs/sample

`lexical` compares how labels are written, `embedding` what they mean (with any sentence-transformers model), and
`confusion` counts which labels a model mixed up in a file of `iepile predict`. Several methods give the union.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from iepile_builder.data.corpus import SPLIT_FILES, check_choices, find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import corpus_descriptions, load_descriptions
from iepile_builder.data.mining import (
    MINED_THRESHOLD,
    confusion_scores,
    embedding_scores,
    frequent_mentions,
    label_texts,
    lexical_scores,
    make_symmetric,
    nearest,
    union,
)
from iepile_builder.data.options import CorpusOptions
from iepile_builder.errors import InputError
from iepile_builder.io import check_output, located, read_objects, to_json, write_whole
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


@dataclass
class MineOptions:
    """
    Input, methods and output.

    Args:
        corpus_dir (`list[str]`):
            Corpus folders, or trees of them; `sample_corpus` is the small one in this package.
        output_file (`Path`):
            The dictionary, in JSON.
        method (`list[str]`, *optional*, defaults to `["lexical"]`):
            One or several of lexical, embedding and confusion.
        top_k (`int`, *optional*, defaults to 5):
            Maximum number of hard negatives of a label, for each method.
        threshold (`float`, *optional*):
            Scores must be above it; by default 0.1 for lexical, 0 for the others.
        symmetric (`bool`, *optional*, defaults to `False`):
            Make each label a hard negative of its own hard negatives.
        model_name_or_path (`str`, *optional*):
            For embedding, a sentence-transformers model.
        descriptions (`str`, *optional*):
            For embedding, a JSON file from label to description.
        num_mentions (`int`, *optional*, defaults to 0):
            For embedding, the number of example mentions to embed with each label.
        predictions_file (`Path`, *optional*):
            For confusion, JSON lines with a model's answers.
    """

    corpus_dir: list[str]
    output_file: Path
    method: list[str] = field(default_factory=lambda: ["lexical"])
    top_k: int = 5
    threshold: float | None = None
    symmetric: bool = False
    model_name_or_path: str | None = None
    descriptions: str | None = None
    num_mentions: int = 0
    predictions_file: Path | None = None


OPTIONS = (MineOptions, CorpusOptions)


def main(options: MineOptions, wanted: CorpusOptions) -> None:
    check_choices("method", options.method, ("lexical", "embedding", "confusion"))
    if "embedding" in options.method and options.model_name_or_path is None:
        raise InputError("--method embedding needs --model_name_or_path")
    if "confusion" in options.method and options.predictions_file is None:
        raise InputError("--method confusion needs --predictions_file")
    # A dictionary may be among the corpora, where a build finds it
    names = [*SPLIT_FILES.values(), "schema.json"]
    files = [file for place in options.corpus_dir for name in names for file in Path(place).rglob(name)]
    inputs = [*files, options.predictions_file, options.descriptions, options.model_name_or_path]
    check_output(options.output_file, inputs)
    corpora = find_corpora(options.corpus_dir, wanted.tasks, wanted.languages, wanted.corpora)
    descriptions = load_descriptions(options.descriptions) if options.descriptions is not None else {}
    predictions: dict[tuple[str, str], list[dict]] = {}
    if options.predictions_file is not None:
        for number, row in read_objects(options.predictions_file):
            with located(options.predictions_file, number):
                Scorer().add({"id": "", **row})  # raises where it is no answer with an annotation
            predictions.setdefault((row["task"], row["source"]), []).append(row)

    table: dict[str, dict[str, dict[str, list[str]]]] = {}
    for corpus in corpora:
        labels = TASKS[corpus.task].labels(corpus.schema)
        tables = []
        for method in options.method:
            if method == "lexical":
                scores = lexical_scores(labels)
            elif method == "embedding":
                mentions = {}
                if options.num_mentions:
                    records = read_split(corpus, "train")
                    mentions = frequent_mentions(corpus.task, corpus.schema, records, options.num_mentions)
                texts = label_texts(labels, corpus_descriptions(descriptions, corpus.task, corpus.source), mentions)
                scores = embedding_scores(texts, options.model_name_or_path or "")
            else:
                scores = confusion_scores(labels, predictions.get((corpus.task, corpus.source), []))
            bar = tqdm(
                scores, f"{corpus.source}, {method}", len(labels), unit="label", delay=1, leave=False, disable=None
            )
            threshold = (
                {"lexical": MINED_THRESHOLD}.get(method, 0.0) if options.threshold is None else options.threshold
            )
            tables.append(nearest(labels, bar, options.top_k, threshold))
        found = make_symmetric(union(tables)) if options.symmetric else union(tables)
        table.setdefault(corpus.task, {})[corpus.source] = {label: others for label, others in found.items() if others}
        print(f"{corpus.task} {corpus.source}: {len(labels)} labels, {sum(map(len, found.values()))} hard negatives")

    write_whole(options.output_file, to_json(table) + "\n")
    print(f"written to {options.output_file}")
