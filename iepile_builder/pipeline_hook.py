"""
Registers the pipeline of [`iepile_builder.pipeline`] with `transformers` as soon as that has its pipelines.

Importing those takes seconds, which `import iepile_builder` must not; and whoever wants one imports them anyway.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


PIPELINES = "transformers.pipelines"


class _AfterPipelines(MetaPathFinder):
    """Finds nothing by itself: has the task registered when the pipelines have been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != PIPELINES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    from iepile_builder.pipeline import register

    register()


def install() -> None:
    """Registers the pipeline: now if `transformers` has its pipelines, or when they are imported."""
    if PIPELINES in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterPipelines())
