"""Schema-based information extraction with language models: corpora to instances to answers to facts to scores."""

from iepile_builder.batching import SchemaBatching
from iepile_builder.errors import InputError
from iepile_builder.extraction import Extraction, Extractor
from iepile_builder.iepile import IEPile, IEPileConfig, register
from iepile_builder.pipeline_hook import install
from iepile_builder.schema import Schema


register()
install()

__version__ = "0.1.0"
__all__ = ["Extraction", "Extractor", "IEPile", "IEPileConfig", "InputError", "Schema", "SchemaBatching"]
