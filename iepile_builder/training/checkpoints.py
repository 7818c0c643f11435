"""Find the checkpoint to continue from, change what is kept of a run, and explain write errors."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError
from iepile_builder.io import write_whole


if TYPE_CHECKING:
    import torch


INSTANCES = "instances.json"  # beside the checkpoints: what they were trained on
# What a checkpoint must hold, by any of these names: of one process or DDP, of FSDP, of DeepSpeed.
WEIGHTS = (
    "adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "pytorch_model_fsdp*",
    "global_step*",
)  # fmt: skip
STATES = (
    ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    ("scheduler.pt", "global_step*"),
    ("rng_state.pth", "rng_state_*.pth"),
)


def last_checkpoint(training_args: Any) -> str | None:
    """
    Find the checkpoint to continue from: the requested one, else the last whole one in the output folder.

    Raises:
        `InputError`: If the requested one is damaged.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state, found, asked = PartialState(), None, training_args.resume_from_checkpoint
    if asked is not None:
        if (damage := find_damage(Path(asked), training_args.save_only_model)) is not None:
            raise InputError(f"{asked}: not a whole checkpoint: {damage}")
        found = str(asked)
    elif state.is_main_process:  # reading takes time, and all processes must continue from the same one
        for _, folder in sorted(find_checkpoints(Path(training_args.output_dir)).items(), reverse=True):
            damage = find_damage(folder, training_args.save_only_model)
            if damage is None:
                found = str(folder)
                break
            print(f"skipping {folder}: {damage}")
    [found] = broadcast_object_list([found])
    if found is not None:
        state.print(f"continuing from {found}; to start anew, give another --output_dir")
    return found


def check_instances(folder: Path, dataset_name: str, instances: str) -> None:
    """
    Record what the training instances are beside the checkpoints of a run: `instances`, such as a hash of them.

    Raises:
        `InputError`: If there are checkpoints of other instances.
    """
    file, record = folder / INSTANCES, json.dumps({"instances": instances}) + "\n"
    if find_checkpoints(folder) and file.is_file() and file.read_text(encoding="utf-8") != record:
        raise InputError(
            f"{folder}: its checkpoints were trained on other instances than {dataset_name} gives now; give another "
            "--output_dir"
        )
    write_whole(file, record)


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """Find the checkpoints in an output folder, by their step."""
    return {
        int(number): checkpoint
        for checkpoint in folder.glob("checkpoint-*")
        if (number := checkpoint.name.removeprefix("checkpoint-")).isdecimal()
    }


def average_checkpoints(folder: Path, count: int, last_step: int) -> list[int]:
    """
    Replace the saved weights in an output folder by the mean of those of its last whole checkpoints; return their
    steps. Without any, the weights stay. Those after `last_step` are of an earlier run, which went further.
    """
    from safetensors.torch import load_file, save_file

    steps = []
    for step, checkpoint in sorted(find_checkpoints(folder).items()):
        if step > last_step:
            continue
        if (damage := find_damage(checkpoint, only_model=True)) is None:
            steps.append(step)
        else:
            print(f"skipping {checkpoint}: {damage}")
    steps = steps[-count:]
    if len(steps) < count:
        print(f"{folder}: {len(steps)} whole checkpoints to average, not {count}")
    for file in folder.glob("*.safetensors") if steps else ():
        sums: dict[str, torch.Tensor] = {}
        for step in steps:
            weights = load_file(folder / f"checkpoint-{step}" / file.name)
            sums = {name: weight.float() + sums.get(name, 0) for name, weight in weights.items()}
        means = {name: (total / len(steps)).to(weights[name].dtype) for name, total in sums.items()}
        save_file(means, file.with_suffix(".tmp"), {"format": "pt"})
        file.with_suffix(".tmp").replace(file)
    return steps


def convert_to_bfloat16(folder: Path) -> None:
    """Store the float32 weights of the model in a folder as bfloat16: half the size, and a GPU is faster with them."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        weights = {
            name: weight.bfloat16() if weight.dtype == torch.float32 else weight
            for name, weight in load_file(file).items()
        }
        save_file(weights, file.with_suffix(".tmp"), {"format": "pt"})
        file.with_suffix(".tmp").replace(file)
    config = (folder / "config.json").read_text(encoding="utf-8")
    write_whole(folder / "config.json", config.replace('"dtype": "float32"', '"dtype": "bfloat16"'))


def find_damage(checkpoint: Path, only_model: bool = False) -> str | None:
    """
    Say which file of a checkpoint is missing or cannot be read; `None` if it is whole. With `only_model`, it was saved
    without the states of optimizer, scheduler and random numbers.
    """
    for names in (("trainer_state.json",), WEIGHTS, *(() if only_model else STATES)):
        if not any(list(checkpoint.glob(name)) for name in names):
            return f"{names[0]} is missing"
    for file in sorted(checkpoint.iterdir()):
        try:
            _read(file)
        except Exception as error:  # damage raises many kinds of errors
            return f"{file.name} cannot be read ({type(error).__name__})"
    return None


def _read(file: Path) -> None:
    """Read a file far enough to see whether it is whole, without unpickling anything."""
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "trainer_state.json":
            int(content["global_step"])
        elif file.name.endswith(".index.json"):  # of weights in several files
            for part in set(content["weight_map"].values()):
                file.with_name(part).stat()
    elif file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="np"):
            pass
    elif file.suffix in (".pt", ".pth", ".bin"):
        with zipfile.ZipFile(file) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(broken)


@contextmanager
def explained_write_errors(folder: Path) -> Iterator[None]:
    """Turn the write errors of the libraries into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # The last is the message of `torch.save` for any write error.
        reasons = ("No space left on device", "Disk quota exceeded", "File too large", "inline_container")
        reason = next((reason for reason in reasons if reason in str(error)), None)
        if reason is None:
            raise
        reason = "a file came out incomplete" if reason == reasons[-1] else reason
        raise InputError(
            f"{folder}: cannot be written to: {reason}, {shutil.disk_usage(folder).free >> 20} MB are free; "
            "with more space the same command continues from the last whole checkpoint"
        ) from None
