"""For make.py and levers.py: their corpora, the calls of commands, and for make.py other uses of annotations."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from iepile_builder import InputError
from iepile_builder.io import read_lines, to_json, write_whole


FOLDER = Path(__file__).parent
PRONOUN = re.compile(
    r"(?i)(i|you|he|she|it|we|they|me|him|her|us|them|my|your|his|its|our|their|this|that|who|which)\b"
)
LONGEST_MENTION = 5  # words


def run(*arguments: Any) -> None:
    """Run a command of `iepile`, or a script."""
    words = [*map(str, arguments)]
    is_script = words[0].endswith(".py")
    print(f"{'python' if is_script else 'iepile'} {shlex.join(words)}", flush=True)
    module = [] if is_script else ["-m", "iepile_builder"]
    if subprocess.run([sys.executable, *module, *words]).returncode != 0:
        raise InputError(f"{words[0]} ended with the message above; the same command resumes")


def check_corpora(tree: Path, corpora: dict[str, dict[str, dict[str, str]]]) -> None:
    """Raise an error for a training corpus that is not the one of corpora.yaml."""
    for task, of_task in corpora.items():
        for name, about in of_task.items():
            file = tree / "IE-en" / task / name / "train.json"
            if not file.exists():
                raise InputError(f"{file}: no such corpus; corpora.yaml lists it")
            if sha256(file.read_bytes()).hexdigest() != about["sha256"]:
                raise InputError(f"{file}: not the file of corpora.yaml (another sha256)")


def recycle(tree: Path, output_dir: Path) -> Path:
    """Write the corpora of recycled.yaml: NER corpora out of relations and events."""
    for name, kinds in yaml.safe_load((FOLDER / "recycled.yaml").read_text()).items():
        (source,) = tree.glob(f"IE-en/*/{name}")
        folder = output_dir / "IE-en" / "NER" / f"{name}-mentions"
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for _, _, line in read_lines(source / "train.json"):
            record = json.loads(line)
            found = dict.fromkeys(find_mentions(record, kinds))
            entities = [{"entity": mention, "entity_type": label} for mention, label in found]
            lines.append(to_json({"text": record["text"], "entity": entities}))
        labels = sorted({label for kind in kinds.values() for label in kind.values()})
        write_whole(folder / "train.json", "\n".join(lines) + "\n")
        write_whole(folder / "schema.json", f"{to_json(labels)}\n[]\n{{}}\n")
    return output_dir


def derive_attributes(tree: Path, output_dir: Path) -> Path:
    """Write the corpora of attributes.yaml: KG corpora out of relations."""
    for name, kinds in yaml.safe_load((FOLDER / "attributes.yaml").read_text()).items():
        source, folder = tree / "IE-en" / "RE" / name, output_dir / "IE-en" / "KG" / f"{name}-attributes"
        folder.mkdir(parents=True, exist_ok=True)
        head_types = {relation: kind["head_type"] for kind in kinds.values() for relation in kind["attributes"]}
        for split in ("train.json", "dev.json"):
            lines = []
            for _, _, line in read_lines(source / split):
                record = json.loads(line)
                kept = [each for each in record["relation"] if each["head_type"] == head_types.get(each["relation"])]
                triples = [{key: each[key] for key in ("head", "relation", "tail")} for each in kept]
                lines.append(to_json({"text": record["text"], "relation": triples}))
            write_whole(folder / split, "\n".join(lines) + "\n")
        attributes = {entity_type: kind["attributes"] for entity_type, kind in kinds.items()}
        schema = [[*attributes], [*head_types], attributes]
        write_whole(folder / "schema.json", "".join(f"{to_json(line)}\n" for line in schema))
    return output_dir


def find_mentions(record: dict[str, Any], kinds: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the mentions in the relations and events of a record, with the label that recycled.yaml gives them."""
    for relation in record.get("relation", ()):
        for end in ("head", "tail"):
            if (kind := relation.get(f"{end}_type")) in kinds.get("types", {}):
                yield relation[end], kinds["types"][kind]
        if relation["relation"] in kinds.get("tails", {}):
            yield relation["tail"], kinds["tails"][relation["relation"]]
    for event in record.get("event", ()):
        for argument in event["arguments"]:
            mention = argument["argument"]
            named = not PRONOUN.match(mention) and len(mention.split()) <= LONGEST_MENTION
            if named and argument["role"] in kinds.get("roles", {}):
                yield mention, kinds["roles"][argument["role"]]
