r"""
Publish an adapter, a merged model, GGUF files, a dataset, the metric or the demo on the Hub.

    iepile push --what adapter --folder outputs/adapter --repo_id user/name \
        --report_file outputs/report.json --predictions_file outputs/preds.jsonl --split test --dry_run
    iepile push --what dataset --folder outputs/data --repo_id user/name
    iepile push --what metric --repo_id user/ie_f1 --public
    iepile push --what demo --repo_id user/demo --model_name_or_path org/base --adapter_name_or_path user/name

`--dry_run` shows what would leave: files, sizes, repository, visibility and the card. A new repository is private
unless `--public` is given. The token is the one of `hf auth login` or of HF_TOKEN. A push is one commit, and none if
nothing has changed; after an interruption the same command goes on from there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iepile_builder.errors import InputError
from iepile_builder.hub.cards import ModelFacts
from iepile_builder.hub.client import full_name
from iepile_builder.hub.files import Files, dataset_files, demo_files, metric_files, model_files
from iepile_builder.hub.push import push
from iepile_builder.io import metric_path


@dataclass
class PushOptions:
    """
    What to push, and where to.

    Args:
        what (`str`):
            `adapter`, `merged` (a whole model), `gguf`, `dataset`, `metric` or `demo`.
        repo_id (`str`):
            The repository, `user/name`; a name alone is in your own namespace.
        folder (`Path`, *optional*):
            The folder of the model, the dataset or the metric; the metric has a default.
        public (`bool`, *optional*, defaults to `False`):
            Make a new repository public; one that exists stays as it is.
        dry_run (`bool`, *optional*, defaults to `False`):
            Show what would be pushed, and the card.
    """

    what: Literal["adapter", "merged", "gguf", "dataset", "metric", "demo"]
    repo_id: str
    folder: Path | None = None
    public: bool = False
    dry_run: bool = False


@dataclass
class DemoOptions:
    """
    The model of the demo.

    Args:
        model_name_or_path (`str`, *optional*):
            Hub id of the model.
        adapter_name_or_path (`str`, *optional*):
            Hub id of a LoRA adapter.
    """

    model_name_or_path: str | None = None
    adapter_name_or_path: str | None = None


OPTIONS = (PushOptions, ModelFacts, DemoOptions)


def main(options: PushOptions, facts: ModelFacts, demo: DemoOptions) -> None:
    what, folder = options.what, options.folder
    if folder is None and what == "metric":
        folder = Path(metric_path()).parent
    if what != "demo" and (folder is None or not folder.is_dir()):
        raise InputError("give --folder, what to push" if folder is None else f"--folder: {folder} is no folder")
    name = full_name(options.repo_id)
    repo_type = {"dataset": "dataset", "metric": "space", "demo": "space"}.get(what, "model")

    files: Files
    if what == "demo" or folder is None:
        if demo.model_name_or_path is None:
            raise InputError("the demo needs a model: give --model_name_or_path")
        files = demo_files(name, demo.model_name_or_path, demo.adapter_name_or_path)
    elif what == "dataset":
        files = dataset_files(folder, name)
    elif what == "metric":
        files = metric_files(folder, name)
    else:
        files = model_files(what, folder, name, facts)
    push(files, name, repo_type, f"Upload {what}", options.public, options.dry_run)
