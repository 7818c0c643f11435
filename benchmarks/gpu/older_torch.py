"""
Let the library run with a PyTorch that is older than it asks for, as a GPU machine may have: `bundle.sh` installs
this file as `sitecustomize.py`. It gives that PyTorch's `varlen_attn` the arguments of the newer one.
"""

import importlib.abc
import importlib.util
import inspect
import sys
from typing import Any


NAME = "torch.nn.attention.varlen"


class AdaptVarlen(importlib.abc.MetaPathFinder):
    """Adapt the module when it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_adapt(module: Any) -> None:
            execute(module)
            module.varlen_attn = adapt(module.varlen_attn)

        spec.loader.exec_module = execute_and_adapt
        return spec


def adapt(kernel: Any) -> Any:
    """Make a kernel take `scale`, `window_size` and `enable_gqa`."""
    names = inspect.signature(kernel).parameters
    if {"scale", "window_size", "enable_gqa"} <= set(names):
        return kernel

    def adapted(
        query: Any, key: Any, value: Any, *borders: Any, scale: Any, window_size: Any, enable_gqa: bool
    ) -> Any:
        if "enable_gqa" not in names:
            repeats = query.shape[1] // key.shape[1]
            key, value = (each.repeat_interleave(repeats, 1) for each in (key, value))
        options = {"enable_gqa": enable_gqa, "scale": scale, "window_size": window_size}
        if "window_size" not in names:
            options["is_causal"] = True
        options = {name: option for name, option in options.items() if name in names}
        return kernel(query.contiguous(), key.contiguous(), value.contiguous(), *borders, **options)

    return adapted


sys.meta_path.insert(0, AdaptVarlen())
