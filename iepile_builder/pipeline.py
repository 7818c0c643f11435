"""`import iepile_builder.pipeline` makes `pipeline("information-extraction")` known to `transformers`."""

from iepile_builder.extraction.pipeline import register


register()
