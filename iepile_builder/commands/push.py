"""
Publish on the Hub: an adapter, a merged model, GGUF files, a dataset, the metric or the demo.

    python scripts/push_to_hub.py adapter --folder outputs/adapter --repo_id user/name \
        --report_file outputs/report.json --predictions_file outputs/preds.jsonl
    python scripts/push_to_hub.py dataset --folder outputs/data --repo_id user/name --dry_run
    python scripts/push_to_hub.py metric --repo_id user/ie_f1 --public
    python scripts/push_to_hub.py demo --repo_id user/demo --model_name_or_path org/base

`--dry_run` shows what would leave: files, sizes, repository, visibility and the card. A new repository is private
unless `--public` is given. The token is the one of `hf auth login` or of HF_TOKEN. A push is one commit, none where
nothing has changed; an interrupted one goes on when the command is given again.
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from iepile_builder import InputError
from iepile_builder.hub.push import (
    DATASET_FILES,
    MODEL_FILES,
    SPACE_FILES,
    Target,
    dataset_files,
    demo_files,
    full_name,
    metric_files,
    model_files,
    show_and_push,
)


METRIC = Path(__file__).parent.parent.parent / "evaluate_metrics" / "ie_f1"
MODELS = {"adapter": "a LoRA adapter", "merged": "a whole model", "gguf": "GGUF files"}


def arguments(what: str) -> ArgumentParser:
    parser = ArgumentParser(description=f"Publish {what}.")
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--repo_id", type=str, required=True, help="user/name; name alone is in your own namespace")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("--revision", type=str, help="branch, made where there is none, or refs/pr/N; default: main")
    parser.add_argument("--tag", type=str, help="a name for what is pushed, such as v1.0")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request in place of a commit on main")
    parser.add_argument("--overwrite", action="store_true", help="push to a repository that holds something else")
    parser.add_argument("--dry_run", action="store_true", help="show what would be pushed, and the card")
    return parser


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    kinds = parser.add_subcommands()
    for form, what in MODELS.items():
        model = arguments(what)
        model.add_argument("--folder", type=Path, required=True, help="of the model")
        model.add_argument("--base_model", type=str, help="Hub id; needed where the base was loaded from a folder")
        model.add_argument("--datasets", type=str, nargs="+", default=[], help="Hub ids of the training data")
        model.add_argument("--languages", type=str, nargs="+", default=[], help="default: the report's")
        model.add_argument("--license", type=str, help="default: the base model's")
        model.add_argument("--report_file", type=Path, help="scores, from score.py with --bootstrap 1000")
        model.add_argument("--predictions_file", type=Path, help="the answers that were scored")
        kinds.add_subcommand(form, model)
    dataset = arguments("a dataset")
    dataset.add_argument("--folder", type=Path, required=True, help="that build_dataset.py --format parquet wrote")
    kinds.add_subcommand("dataset", dataset)
    metric = arguments("the metric, as a Space")
    metric.add_argument("--folder", type=Path, default=METRIC, help="of the metric")
    kinds.add_subcommand("metric", metric)
    demo = arguments("the demo, as a Space")
    demo.add_argument("--model_name_or_path", type=str, required=True, help="Hub id of the model")
    demo.add_argument("--adapter_name_or_path", type=str, help="Hub id of a LoRA adapter")
    kinds.add_subcommand("demo", demo)
    asked = parser.parse_args()
    kind: str = asked.subcommand
    args: Namespace = asked[kind]

    name = full_name(args.repo_id)
    if kind in MODELS:
        files = model_files(
            kind, args.folder, name, args.base_model, args.datasets, args.languages, args.license,
            args.report_file, args.predictions_file,
        )  # fmt: skip
        repo_type, managed = "model", MODEL_FILES
    elif kind == "dataset":
        files, repo_type, managed = dataset_files(args.folder, name), "dataset", DATASET_FILES
    elif kind == "metric":
        files, repo_type, managed = metric_files(args.folder, name), "space", SPACE_FILES
    else:
        files = demo_files(name, args.model_name_or_path, args.adapter_name_or_path)
        repo_type, managed = "space", SPACE_FILES
    target = Target(name, repo_type, args.public, args.revision, args.tag, args.create_pr, args.overwrite)
    show_and_push(files, target, f"Upload {kind}", managed, args.dry_run)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
