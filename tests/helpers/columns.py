"""Words with their tags in files and datasets, and the records that they are."""

import datasets


BIO = """-DOCSTART- -X- O

Ada NNP B-PER
Lovelace NNP I-PER
met VBD O
Bob NNP B-PER
in IN O
New NNP B-LOC
York NNP I-LOC

Nothing O
"""
RECORDS = [
    {
        "text": "Ada Lovelace met Bob in New York",
        "entity": [
            {"entity": "Ada Lovelace", "entity_type": "PER", "start": 0, "end": 12},
            {"entity": "Bob", "entity_type": "PER", "start": 17, "end": 20},
            {"entity": "New York", "entity_type": "LOC", "start": 24, "end": 32},
        ],
    },
    {"text": "Nothing", "entity": []},
]
TOKENS = [{"tokens": ["Ada", "met", "Bob"], "ner_tags": [1, 0, 1]}, {"tokens": ["Nothing"], "ner_tags": [0]}]
PEOPLE = [
    {
        "text": "Ada met Bob",
        "entity": [
            {"entity": "Ada", "entity_type": "PER", "start": 0, "end": 3},
            {"entity": "Bob", "entity_type": "PER", "start": 8, "end": 11},
        ],
    },
    {"text": "Nothing", "entity": []},
]


def make_dataset(names: list[str]) -> datasets.Dataset:
    tags = datasets.Sequence(datasets.ClassLabel(names=names))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    return datasets.Dataset.from_list(TOKENS, features=features)
