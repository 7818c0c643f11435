# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder"]
# ///
"""
Publish on the Hub:

    python scripts/push_to_hub.py adapter --folder outputs/adapter --repo_id user/name --dry_run

The kind may come first, as here, or as `--what adapter`.
"""

import sys

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    argv = sys.argv[1:]
    run("push", argv if argv[:1] == [] or argv[0].startswith("-") else ["--what", *argv])
