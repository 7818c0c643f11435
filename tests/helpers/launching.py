"""What `accelerate launch` makes of the files of recipes/accelerate_configs."""

from argparse import Namespace
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from helpers.corpora import ROOT


FOLDER = ROOT / "recipes" / "accelerate_configs"


def launch_arguments(config: Path, *options: str) -> Namespace:
    arguments = launch_command_parser().parse_args(["--config_file", str(config), *options, "scripts/sft.py"])
    return _validate_launch_command(arguments)[0]
