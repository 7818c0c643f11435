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

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.push", run_name="__main__")
