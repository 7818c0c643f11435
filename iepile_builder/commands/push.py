r"""
Publish an adapter, merged model, GGUF file, dataset, the metric or the demo on the Hub.

    iepile push --what adapter --folder outputs/adapter --repo_id user/name \
        --report_file outputs/report.json --predictions_file outputs/preds.jsonl --split test --dry_run
    iepile push --what dataset --folder outputs/data --repo_id user/name
    iepile push --what metric --repo_id user/ie_f1 --public
    iepile push --what demo --repo_id user/demo --model_name_or_path org/base --adapter_name_or_path user/name

`--dry_run` shows what would be pushed: files, sizes, repository, visibility and the card. A new repository is private
unless `--public` is given. The token is that of `hf auth login` or HF_TOKEN. A push is one commit, or none if nothing
has changed; if it is interrupted, the same command resumes it. Files that hold tokens, API keys or private keys are
refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iepile_builder.errors import InputError
from iepile_builder.hub.cards import ModelFacts
from iepile_builder.hub.client import full_name
from iepile_builder.hub.files import demo_files
from iepile_builder.hub.push import push, push_folder
from iepile_builder.io import metric_path


@dataclass
class PushOptions:
    """
    What to push, and where.

    Args:
        what (`str`):
            `adapter`, `merged` (a full model), `gguf`, `dataset`, `metric` or `demo`.
        repo_id (`str`):
            The repository, `user/name`; a bare name is in your own namespace.
        folder (`Path`, *optional*):
            The folder of the model or the dataset; by default the bundled metric, if that is pushed.
        public (`bool`, *optional*, defaults to `False`):
            Make a new repository public; an existing one is not changed.
        dry_run (`bool`, *optional*, defaults to `False`):
            Show what would be pushed, card included, and stop.
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
    if what == "demo":
        if demo.model_name_or_path is None:
            raise InputError("the demo needs a model: give --model_name_or_path")
        name = full_name(options.repo_id)
        files = demo_files(name, demo.model_name_or_path, demo.adapter_name_or_path)
        push(files, name, "space", "Upload demo", options.public, options.dry_run)
        return
    if folder is None and what == "metric":
        folder = Path(metric_path()).parent
    if folder is None or not folder.is_dir():
        raise InputError("give --folder, what to push" if folder is None else f"--folder: {folder} is not a folder")
    push_folder(what, folder, options.repo_id, options.public, options.dry_run, facts)
