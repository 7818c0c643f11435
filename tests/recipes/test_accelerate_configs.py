"""`recipes/accelerate_configs`: what `accelerate launch` makes of each file."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers.corpora import ROOT
from helpers.launching import FOLDER, launch_arguments
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy


CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_accelerate_knows_every_key(config: Path) -> None:
    load_config_from_file(str(config))  # refuses unknown keys, but not the ones within
    known = set(vars(launch_command_parser().parse_args(["scripts/sft.py"])))
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(content.get(section, {})) <= known


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_accelerate_launches_one_kind_and_as_many_processes_as_it_needs(config: Path) -> None:
    arguments = launch_arguments(config)
    kinds = [arguments.use_cpu, arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed]
    assert sum(map(bool, kinds)) == (config.stem != "single_gpu")
    assert (arguments.num_processes > 1) == (config.stem not in ("cpu", "single_gpu"))
    assert arguments.num_processes % arguments.num_machines == 0


@pytest.mark.parametrize("name", ["fsdp2", "multi_node"])
def test_fsdp2_is_what_the_processes_find(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in prepare_multi_gpu_env(launch_arguments(FOLDER / f"{name}.yaml")).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.cpu_ram_efficient_loading
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    # Else both it and the recipe's `activation_checkpointing` would, which the trainer refuses.
    assert not plugin.activation_checkpointing


@pytest.mark.parametrize("stage", [2, 3])
def test_the_zero_stage(stage: int) -> None:
    arguments = launch_arguments(FOLDER / f"zero{stage}.yaml")
    assert arguments.zero_stage == stage
    assert (arguments.offload_optimizer_device, arguments.offload_param_device) == ("none", "none")
    assert bool(arguments.zero3_init_flag) == bool(arguments.zero3_save_16bit_model) == (stage == 3)


def test_slurm_can_write_its_log_in_a_clone() -> None:
    script = (FOLDER / "slurm.sh").read_text(encoding="utf-8")
    [log] = re.findall(r"^#SBATCH --output=(.*)$", script, re.MULTILINE)
    assert (ROOT / log).parent == ROOT, "Slurm makes no folders, and ends the job without a line"


def test_slurm_starts_one_launcher_on_each_machine(tmp_path: Path) -> None:
    """With stand-ins for Slurm's commands and for `accelerate`, which print what they are called with."""
    tools = {
        # More names than a pipe holds: who stops reading after the first line kills this command, and the job with it.
        "scontrol": "echo first; seq 100000",
        # The tasks of two machines, one behind the other.
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done; echo "$SRUN_CPUS_PER_TASK cores"',
        "accelerate": 'printf "%s|" "$@"; echo',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "12345",
        "SLURM_CPUS_PER_TASK": "32",
    }
    command = ["bash", str(FOLDER / "slurm.sh"), "--config", "a recipe.yaml", "--output_dir", "outputs/x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *lines, cores = done.stdout.splitlines()
    assert len(lines) == 2 and cores == "32 cores"
    for rank, line in enumerate(lines):
        arguments = line.split("|")[:-1]
        assert arguments[:3] == ["launch", "--quiet", "--config_file"]
        parsed = launch_arguments(ROOT / arguments[3], *arguments[4 : arguments.index("scripts/sft.py")])
        assert (parsed.num_machines, parsed.num_processes, parsed.machine_rank) == (2, 8, rank)
        assert (parsed.main_process_ip, parsed.main_process_port) == ("first", 22345)
        assert arguments[arguments.index("scripts/sft.py") + 1 :] == command[2:]


def test_every_file_that_a_recipe_or_a_readme_launches_with_is_there() -> None:
    recipes = ROOT / "recipes"
    texts = [path.read_text(encoding="utf-8") for suffix in ("yaml", "md") for path in recipes.rglob(f"*.{suffix}")]
    patterns = {
        r"recipes/[\w./-]+\.(?:yaml|sh|jinja)": ROOT / "{}",
        r"iepile (?:train|grpo) --config ([\w./-]+\w)": recipes / "{}",
        r"--accelerate_config (\w+)": FOLDER / "{}.yaml",
    }
    for pattern, place in patterns.items():
        named = {name for text in texts for name in re.findall(pattern, text)}
        assert named, pattern
        assert [name for name in sorted(named) if not Path(str(place).format(name)).is_file()] == []
