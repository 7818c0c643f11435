"""
Convert annotated files of other formats to corpora in the unified format.

    iepile convert --corpus_dir project-1-at-2026-05-04.json --languages en --output_dir outputs/mine
    iepile convert --corpus_dir annotated/ --languages de --output_dir outputs/mine
    iepile convert --corpus_dir user/dataset:config --languages en --output_dir outputs/mine

| format | files | how it is detected |
|---|---|---|
| label_studio | JSON, JSON-MIN: `<Text>` regions, relations | `data` and `annotations`, or `annotation_id` |
| doccano | JSON lines: `label`, or `entities` and `relations` | `text` and `label` or `entities` |
| brat | `.ann` beside `.txt`: T, R and E | `.ann` |
| spacy | DocBin (extra `spacy`), JSON | `.spacy`, `paragraphs`, pairs of text and entities |
| conll | columns, tags of BIO, IOBES or BMES | the tags, in `.conll .bio .iob2 .tsv .txt`, `eng.train`, `eng.testa` |
| datasets | a Hub id; Parquet, `save_to_disk`; JSON | `.parquet`, `.arrow`; `tokens` and `ner_tags` |
| csv | `.csv`, `.tsv` with a header | `.csv`; a column `text` |
| instructie | `train_en.json`, ... of InstructIE | `cate` and `relation` |
| instances | of the IEPile dataset | `task`, `source` and `instruction` |
| unified | JSON lines or a JSON list of records | `text` and `entity`, `relation` or `event` |

`--input_format` overrides the detection. A CSV has the column `text` and either `start`, `end`, `label` or `entity`,
`label` (an entity a line), or `head`, `relation`, `tail`, or `entities`, a list `[[0, 5, "PER"]]`; lines of the same
text are one record.

The split is a word in the name of a file or of its folder: train; dev, valid, validation, testa; test, testb. Files
without one are training data, of which `--validation 0.1 --test 0.1` set a part aside. A folder becomes a corpus of
its name. Its schema is a `schema.json` beside the files, else the labels of the records. Entities become a corpus of
NER, triples one of RE (or `--tasks KG`), events one of EE.

Offsets (`start` and `end`, in characters) are kept. `iepile build --corpus_dir` reads all of these files, too.
"""

from dataclasses import dataclass
from pathlib import Path

from iepile_builder.data.convert import convert
from iepile_builder.data.corpus import check_choices
from iepile_builder.data.detect import SUFFIXES
from iepile_builder.data.output import replace_folder


@dataclass
class ConvertOptions:
    """
    What to read, and what to write.

    Args:
        corpus_dir (`list[str]`):
            Files, folders, or ids of datasets on the Hub (`user/name` or `user/name:config`).
        output_dir (`Path`):
            The folder to write: a tree {IE-en,IE-de,...}/{TASK}/{corpus}.
        input_format (`str`, *optional*):
            Format of the files, one of those above; by default detected.
        tasks (`list[str]`, *optional*):
            Tasks to write, of NER, RE, SPO, EE, EET, EEA and KG; by default those that are annotated.
        languages (`list[str]`, *optional*):
            Code of the texts' language, such as en, zh or de; needed unless they lie in a folder IE-en, IE-de, ....
        validation (`float`, *optional*, defaults to 0.0):
            Share of the records to make validation records, in files whose names say no split.
        test (`float`, *optional*, defaults to 0.0):
            Share of the records to make test records, in files whose names say no split.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace what an earlier conversion wrote to the output folder.
    """

    corpus_dir: list[str]
    output_dir: Path
    input_format: str | None = None
    tasks: list[str] | None = None
    languages: list[str] | None = None
    validation: float = 0.0
    test: float = 0.0
    overwrite: bool = False


OPTIONS = (ConvertOptions,)


def main(options: ConvertOptions) -> None:
    check_choices("input_format", [options.input_format] if options.input_format else [], SUFFIXES)
    places = [place for place in options.corpus_dir if Path(place).exists()]
    with replace_folder(options.output_dir, "convert", options.overwrite, places) as new:
        corpora, notes = convert(
            options.corpus_dir,
            new,
            options.input_format,
            options.tasks,
            options.languages,
            options.validation,
            options.test,
        )
        lines = [corpus.describe() for corpus in corpora] + notes
    for line in lines:
        print(line)
    print(f"written to {options.output_dir}; iepile build --corpus_dir {options.output_dir} makes instances of them")
