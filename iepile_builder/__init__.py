"""Schema-based information extraction with language models: corpora to instances to answers to facts to scores."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iepile_builder.data.batching import SchemaBatching
from iepile_builder.errors import InputError
from iepile_builder.iepile import IEPile, IEPileConfig, register
from iepile_builder.io import metric_path
from iepile_builder.schema import Schema


if TYPE_CHECKING:
    from iepile_builder.extraction.documents import read_document
    from iepile_builder.extraction.extractor import Extractor
    from iepile_builder.extraction.result import Extraction, Extractions

__version__ = "0.1.0"
__all__ = [
    "Extraction",
    "Extractions",
    "Extractor",
    "IEPile",
    "IEPileConfig",
    "InputError",
    "Schema",
    "SchemaBatching",
    "metric_path",
    "read_document",
]

# imported when they are used: building needs neither
_LAZY = {
    "Extraction": "iepile_builder.extraction.result",
    "Extractions": "iepile_builder.extraction.result",
    "Extractor": "iepile_builder.extraction.extractor",
    "read_document": "iepile_builder.extraction.documents",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


register()
