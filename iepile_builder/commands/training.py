"""What `iepile train` and `iepile grpo` share: help, TRL's options, `accelerate launch`, and what is kept of a run."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any

import yaml

from iepile_builder.answers.scores import CALIBRATION
from iepile_builder.commands.cli import documented, make_parser, run
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import model_card
from iepile_builder.hub.push import push_folder
from iepile_builder.io import find_adapter, find_resource, first_line
from iepile_builder.processes import start_children
from iepile_builder.training.arguments import DataArguments, SftArguments
from iepile_builder.training.checkpoints import (
    average_checkpoints,
    convert_to_bfloat16,
    explained_write_errors,
    find_checkpoints,
    last_checkpoint,
)
from iepile_builder.training.curves import PLOT, plot
from iepile_builder.training.record import describe_settings, write_training


if TYPE_CHECKING:
    from transformers import Trainer
    from trl import ModelConfig

SHOWN = {
    "model_name_or_path": "a folder or a Hub id",
    "output_dir": "folder for checkpoints and the result",
    "push_to_hub": "push the result, private by default",
    "report_to": "none, trackio, tensorboard or wandb",
    "save_steps": "steps between checkpoints; below 1 a share of all",
    "seed": "random seed",
    "use_cpu": "train on the CPU",
    "gradient_accumulation_steps": "batches before each step",
}


@dataclass
class LaunchOptions:
    """
    Processes (accelerate).

    Args:
        accelerate_config (`str`, *optional*):
            A file for `accelerate launch`, or a name: `cpu`, `single_gpu`, `ddp`, `fsdp2`, `zero2`, `zero3`,
            `multi_node`. By default `single_gpu`, or `cpu` if there is no accelerator.
        num_processes (`int`, *optional*):
            Number of processes on all machines, in place of the file's.
        num_machines (`int`, *optional*):
            Number of machines.
        machine_rank (`int`, *optional*):
            Number of this machine, from 0.
        main_process_ip (`str`, *optional*):
            Address of machine 0.
        main_process_port (`int`, *optional*):
            Its port.
    """

    accelerate_config: str | None = None
    num_processes: int | None = None
    num_machines: int | None = None
    machine_rank: int | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None


def launch(name: str, argv: Sequence[str]) -> None:
    """Run a training command in the processes that `accelerate launch` starts, as `trl sft` does."""
    if not {"-h", "--help", "--help_all"}.isdisjoint(argv):
        return run(name, argv)
    known = {f"--{field.name}" for field in fields(LaunchOptions)}
    arguments = [part for each in argv for part in (each.split("=", 1) if each.split("=")[0] in known else [each])]
    options: dict[str, str] = {}
    while index := next((index for index, each in enumerate(arguments[:-1], 1) if each in known), 0):
        options[arguments[index - 1]] = arguments[index]
        del arguments[index - 1 : index + 1]

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch import accelerator
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    config = options.pop("--accelerate_config", "single_gpu" if accelerator.is_available() else "cpu")
    path = config if Path(config).is_file() else find_resource("recipes", f"accelerate_configs/{config}.yaml")
    command = ["--config_file", str(path), *(part for option in options.items() for part in option)]
    command += ["--module", f"iepile_builder.commands.{name}", *arguments]
    # Four lines say that the CPU's cores are the default number of threads; what else is missing in a file is told.
    logging.getLogger("accelerate.commands.launch").addFilter(
        lambda record: not re.search(r":\n\t`--num_cpu_threads_per_process`.*\nTo avoid", str(record.msg))
    )
    start_children()
    try:
        launch_command(launch_command_parser().parse_args(command))
    except KeyboardInterrupt:  # the process has it, too, and says what is kept
        with suppress(ChildProcessError):
            os.wait()
        sys.exit(130)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except CalledProcessError as error:
        code = error.returncode
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    else:
        return None
    # The process has said what is wrong, unless it was killed.
    sys.exit(f"error: a training process was ended by {signal.Signals(-code).name}" if code < 0 else code)


def parse(
    name: str,
    doc: str,
    data_class: type[DataArguments],
    config: str,
    shown: Mapping[str, str],
    recipe: str,
    argv: Sequence[str] | None,
) -> Any:
    """
    Read our options, those of a class of TRL's options, and those of [`~trl.ModelConfig`].

    The help lists the options of TRL in `shown`, each with its description and its value in `recipe`.

    Raises:
        `InputError`: If an option is unknown or has a wrong value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "-h" in argv or "--help" in argv:
        _print_help(name, doc, data_class, shown, recipe)
        sys.exit()

    import trl

    parser = trl.TrlParser(
        (data_class, getattr(trl, config), trl.ModelConfig), prog=f"iepile {name}", usage=f"iepile {name} [options]"
    )
    descriptions = documented(data_class)
    for action in parser._actions:
        action.help = descriptions.get(action.dest, action.help)
    if "--help_all" in argv:
        parser.print_help()
        sys.exit()

    def refuse(message: str) -> None:
        raise InputError(f"{message}; see iepile {name} --help")

    parser.error = refuse
    argv = [part for each in argv for part in (each.split("=", 1) if each.startswith("--config=") else [each])]
    if "--config" in argv[:-1]:
        argv[argv.index("--config") + 1] = str(find_resource("recipes", argv[argv.index("--config") + 1]))
    try:
        arguments = parser.parse_args_and_config(argv)
    except (OSError, ValueError, ImportError, yaml.YAMLError) as error:
        if "bf16/gpu" in str(error):
            raise InputError(
                "the recipe asks for bfloat16 and there is no GPU that computes in it: give --use_cpu to train on the "
                "CPU, or --bf16 false"
            ) from None
        raise InputError(first_line(error)) from None
    data_args, training_args, model_args = arguments
    if data_args.adapter_name_or_path is not None:
        data_args.adapter_name_or_path = find_adapter(data_args.adapter_name_or_path)
    if model_args.model_name_or_path is None:
        if data_args.adapter_name_or_path is None:
            raise InputError("no model: give --model_name_or_path")
        from iepile_builder.engines.loading import find_base

        model_args.model_name_or_path = find_base(data_args.adapter_name_or_path)
    for each in (data_args, training_args):
        if getattr(each, "chat_template_path", None) is not None:
            each.chat_template_path = str(find_resource("recipes", each.chat_template_path))
    if training_args.project == type(training_args).project:  # the same for everybody
        training_args.project = Path(training_args.output_dir).resolve().name
    return arguments


def _print_help(name: str, doc: str, data_class: type, shown: Mapping[str, str], recipe: str) -> None:
    """Print the help without importing TRL, which takes long."""
    values = yaml.safe_load(find_resource("recipes", recipe).read_text(encoding="utf-8"))
    parser = make_parser(name, doc, (data_class, LaunchOptions))
    lines = [
        f"  --{option:<28}{text}" + (f" ({values[option]})" if option in values else "")
        for option, text in shown.items()
    ]
    parser.add_argument_group(f"Options of TRL that are needed most, with the values of {recipe}", "\n".join(lines))
    parser.epilog = f"iepile {name} --help_all lists all options of TRL."
    parser.print_help()


@contextmanager
def interrupts_explained(folder: Path) -> Iterator[None]:
    """Let Ctrl-C say which checkpoint is there."""
    try:
        yield
    except KeyboardInterrupt:
        steps = find_checkpoints(folder)
        kept = f"checkpoint-{max(steps)} is kept, and the same command resumes" if steps else "no checkpoint yet"
        raise KeyboardInterrupt(kept) from None


def _read_step(folder: Path) -> int | None:
    state = folder / "trainer_state.json"
    return json.loads(state.read_text())["global_step"] if state.exists() else None


def train_and_keep(
    trainer: Trainer,
    data_args: DataArguments,
    model_args: ModelConfig,
    repo_id: str | None,
    own_settings: Mapping[str, Any],
    **record: Any,
) -> None:
    """
    Train from the last whole checkpoint on; keep the model with its tokenizer, record, plot and card, and push it to
    `repo_id` if one is given. The trainer cannot be used afterwards.

    The card shows `own_settings`, which only this kind of training has; [`write_training`] gets `record`.
    """
    from iepile_builder.training.data import without_bars
    from iepile_builder.training.progress import show_progress
    from iepile_builder.training.trainer import end

    args = trainer.args
    folder = Path(str(args.output_dir))
    is_adapter = model_args.use_peft or data_args.adapter_name_or_path is not None
    form: Any = "adapter" if is_adapter else "merged"
    checkpoint = last_checkpoint(args)
    for config in getattr(trainer.model, "peft_config", {}).values():
        if isinstance(config.target_modules, set):  # saved in another order by each process
            config.target_modules = sorted(config.target_modules)
    show_progress(trainer)
    with without_bars(), interrupts_explained(folder), explained_write_errors(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
        if (
            trainer.is_world_process_zero()
            and (folder / CALIBRATION).exists()
            and not (checkpoint and {_read_step(folder), _read_step(Path(checkpoint))} == {trainer.state.global_step})
        ):
            (folder / CALIBRATION).unlink()
            print(f"{folder / CALIBRATION}: removed, it was fitted to the weights of before; calibrate anew")
        trainer.save_model(args.output_dir)
        if trainer.is_world_process_zero():
            if isinstance(data_args, SftArguments) and data_args.average_checkpoints:
                steps = average_checkpoints(folder, data_args.average_checkpoints, trainer.state.global_step)
                if steps:
                    what = "the mean of the weights at steps" if len(steps) > 1 else "the weights at step"
                    print(f"kept: {what} {', '.join(map(str, steps))}")
                    record["averaged"] = steps
            if not is_adapter and args.bf16:
                convert_to_bfloat16(folder)
            log, state = trainer.state.log_history, trainer.state
            kept = f"{'adapter' if is_adapter else 'model'}, tokenizer with chat template, card"
            kept += ", plot" if plot(log, folder / PLOT) else ""
            settings = describe_settings(data_args, args, model_args, state, own_settings)
            kept_step = (args.load_best_model_at_end and state.best_global_step) or state.global_step
            write_training(
                folder, data_args, args, model_args, settings=settings, log=log, kept_step=kept_step, **record
            )
            model_card(form, folder, repo_id).save(folder / "README.md")
            print(f"{kept}: {folder}")
        trainer.save_state()  # last: it shows that the rest is there
    is_main = trainer.is_world_process_zero()
    end(trainer)  # before the push, for which the other processes would wait longer than they may
    if repo_id is not None and is_main:
        push_folder(form, folder, repo_id, public=args.hub_private_repo is False)
