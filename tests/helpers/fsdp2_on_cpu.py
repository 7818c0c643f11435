"""
Runs `scripts/sft.py`, sharded with FSDP2 over the processes that torchrun started, on a CPU.

accelerate shards on accelerators alone: to it, several processes on a CPU are `MULTI_CPU`. Called something else here,
they are sharded as GPUs are. Each writes down what it trained.
"""

import json
import runpy
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from bitsandbytes.nn import Linear4bit
from torch.distributed.tensor import DTensor
from trl import SFTTrainer


_init, _train = PartialState.__init__, SFTTrainer.train


def init(self: PartialState, *args: object, **kwargs: object) -> None:
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def train(self: SFTTrainer, **kwargs: object) -> object:
    output = _train(self, **kwargs)
    weights = dict(self.model_wrapped.named_parameters())
    sharded = [weight for weight in weights.values() if isinstance(weight, DTensor)]
    found = {
        "processes": self.args.world_size,
        "distributed": self.accelerator.distributed_type.value,
        "weights": len(weights),
        "sharded": len(sharded),
        "halved": sum(2 * weight.to_local().numel() == weight.numel() for weight in sharded),
        "quantized": sum(type(module) is Linear4bit for module in self.model_wrapped.modules()),
        "losses": [entry["loss"] for entry in self.state.log_history if "loss" in entry],
    }
    Path(self.args.output_dir, f"found_{self.args.process_index}.json").write_text(json.dumps(found))
    return output


PartialState.__init__ = init  # type: ignore[method-assign]
SFTTrainer.train = train
script = Path(__file__).parent.parent.parent / "scripts" / "sft.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
