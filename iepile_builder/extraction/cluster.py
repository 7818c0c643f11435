"""Spread parcels over the processes of a Ray cluster, on this machine or on many."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

import pyarrow as pa

from iepile_builder.errors import InputError
from iepile_builder.extraction.corpus import Answerer, Ledger, Parcel, Result
from iepile_builder.io import first_line


STORE = 512 << 20  # bytes of shared memory that Ray may take on this machine: parcels are small
SECONDS = 5  # to reach a cluster


@dataclass
class ClusterOptions:
    """
    Processes.

    Args:
        ray_address (`str`, *optional*):
            Address of a Ray cluster, or `auto` for the one that this machine belongs to. Every machine of it needs
            this package, the model and the documents under the same names.
        num_workers (`int`, *optional*):
            Copies of the model. By default one in this process, without Ray; on a cluster one for each GPU, or for
            each core where there are none.
        num_cpus (`float`, *optional*, defaults to 1.0):
            Cores of each.
        num_gpus (`float`, *optional*):
            GPUs of each, by default 1 where there are any and the model is not behind a server.
    """

    ray_address: str | None = None
    num_workers: int | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None

    @property
    def uses_ray(self) -> bool:
        return self.ray_address is not None or self.num_workers is not None


Build = Callable[[Callable[[str], int], Callable[[Sequence[str]], object]], Answerer]


@contextmanager
def connected(options: ClusterOptions) -> Iterator[None]:
    """
    Connect to a cluster, or start Ray on this machine.

    Raises:
        `InputError`: If Ray is not installed or no cluster can be reached.
    """
    # before Ray is imported; its own logs stay in its folder
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")  # else Ray keeps what 100,000 tasks did
    if options.ray_address is not None:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else 20 minutes long, where something else answers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(f"{error.name or 'ray'} is not installed: pip install 'iepile-builder[ray]'") from None
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if options.ray_address is not None:
            _knock(options.ray_address)
        with _no_stderr():
            if options.ray_address is None:
                ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **quiet)
            else:
                ray.init(address=options.ray_address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if options.ray_address is None else f"at {options.ray_address}"
        if isinstance(error.__cause__, ray.exceptions.AuthenticationError):
            raise InputError(
                f"the Ray cluster {where} wants a token: export RAY_AUTH_MODE=token, and copy its head's "
                "~/.ray/auth_token to this machine"
            ) from None
        raise InputError(f"no Ray cluster can be reached {where}: {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what is written to the standard error, as Ray does below Python to say that it writes little there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Raise an `OSError` if nothing listens at an address: Ray would wait for minutes, then end the process."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=SECONDS).close()


def answer_on_ray(
    pieces: Sequence[Any], read: Callable[[Any], Iterator[Parcel]], build: Build, options: ClusterOptions, gpus: bool
) -> Iterator[Result]:
    """
    Read pieces into parcels and answer them, in any order, as fast as the results are taken.

    `build` loads the model and makes an [`Answerer`], in each process; `gpus` tells whether the model can use a GPU.

    Raises:
        `InputError`: If the cluster has no room or is lost, or whatever `read` and `build` raise.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers, num_gpus = _count_workers(options, gpus)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(Ledger)
    ledger = actor.options(scheduling_strategy=here).remote()
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # of Ray's own fields
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3  # workers that die while they load the model; by default none may
    context.target_max_block_size = 1  # a parcel is a block, so that it is dealt out by itself
    with ray.data.DataContext.current(context):
        rows = [{"piece": pickle.dumps(piece)} for piece in pieces]
        parcels = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Reader(read),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=min(len(rows), max(2, workers // 4))),
            num_cpus=0,  # or the workers leave no core for it
        )
        results = parcels.map_batches(
            _Worker,
            fn_constructor_args=(build, ledger),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=options.num_cpus,
            num_gpus=num_gpus or None,
        )
        try:
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                for content in pa.table(batch)["result"].to_pylist():
                    result = pickle.loads(content)
                    if isinstance(result, Exception):
                        raise result
                    yield result
        except ray.exceptions.RayError as error:
            raise InputError(f"Ray: {first_line(error)}; the same command resumes") from error


def _count_workers(options: ClusterOptions, gpus: bool) -> tuple[int, float]:
    """Count the copies of the model that a cluster is to run, and the GPUs of each."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    there = {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}
    num_gpus = options.num_gpus if options.num_gpus is not None else float(gpus and there["GPU"] >= 1)
    wanted = {"CPU": options.num_cpus, "GPU": num_gpus}
    room = min([int(there[name] // each) for name, each in wanted.items() if each] or [1])
    workers = room if options.num_workers is None else options.num_workers
    if not 1 <= workers <= room:
        raise InputError(
            f"{workers or 'no'} workers with {options.num_cpus:g} cores and {num_gpus:g} GPUs each: Ray has "
            f"{there['CPU']:g} cores and {there['GPU']:g} GPUs; give --num_workers, --num_cpus or --num_gpus"
        )
    return workers, num_gpus


class _Reader:
    """Read pieces into parcels. An error is passed on: Ray would print it, and try again."""

    def __init__(self, read: Callable[[Any], Iterator[Parcel]]) -> None:
        self.read = read

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        for piece in pieces["piece"].to_pylist():
            try:
                for parcel in self.read(pickle.loads(piece)):
                    yield _table("parcel", parcel)
            except InputError as error:
                yield _table("parcel", error)


class _Worker:
    """Answer parcels, with the model that this process has loaded."""

    def __init__(self, build: Build, ledger: Any) -> None:
        import ray

        self.error: Exception | None = None
        try:
            self.answer = build(lambda key: ray.get(ledger.begin.remote(key)), ledger.end.remote)
        except (InputError, ModuleNotFoundError) as error:
            self.error = error
        except Exception as error:  # as a rule of the model, as in one process
            self.error = InputError(f"the model cannot be loaded: {first_line(error)}")

    def __call__(self, parcels: pa.Table) -> pa.Table:
        [content] = parcels["parcel"].to_pylist()
        parcel = pickle.loads(content)
        if self.error is not None or isinstance(parcel, Exception):
            return _table("result", self.error or parcel)
        return _table("result", self.answer(parcel))


def _table(column: str, value: object) -> pa.Table:
    return pa.table({column: pa.array([pickle.dumps(value)], pa.large_binary())})
