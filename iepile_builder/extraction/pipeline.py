"""`pipeline("information-extraction", model=...)` of `transformers`, on [`Extractor`]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.errors import InputError
from iepile_builder.extraction.extractor import Extractor, take_options


class InformationExtractionPipeline(Pipeline):
    """
    Extract what a schema asks for from texts.

        import iepile_builder.pipeline
        from transformers import pipeline

        extract = pipeline("information-extraction", model="path/or/hub-id")
        extract("Ada Lovelace met Charles Babbage.", task="NER", schema=["person", "city"])["facts"]

    Called with a text it gives one result, with a list a list, with a generator or a dataset an iterator. The
    arguments of a call are those of [`Extractor`]; `as_dict=False` gives an [`Extraction`] in place of a dict. Those
    of `pipeline` are its own and the options of [`Extractor`], such as `max_new_tokens`. An adapter is loaded with the
    tokenizer of its base model: give `tokenizer=` too where the adapter has its own.
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = take_options(kwargs)
        super().__init__(*args, **kwargs)
        tokenizer: Any = self.tokenizer
        if tokenizer.chat_template is None:
            raise InputError(
                f"{tokenizer.name_or_path}: its tokenizer has no chat template: give tokenizer= one that has, such as "
                "that of iepile_builder.chat.load_tokenizer(name, chat_template_path)"
            )
        self.model.train(False)
        engine = TransformersEngine(self.model, tokenizer, batch_size=self._batch_size)
        self.extractor = Extractor(engine, **options)

    def _sanitize_parameters(self, as_dict: bool | None = None, **kwargs: Any) -> tuple[Any, Any, Any]:
        return kwargs, {}, {} if as_dict is None else {"as_dict": as_dict}

    def preprocess(self, input_: Any, **preprocess_parameters: Any) -> dict[str, Any]:
        return {"text": input_, **preprocess_parameters}

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        return self.extractor(**input_tensors)

    def forward(self, model_inputs: Any, **forward_params: Any) -> Any:
        return self._forward(model_inputs)  # there are no tensors to move

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> Any:
        return model_outputs.to_dict() if postprocess_parameters.get("as_dict", True) else model_outputs

    def get_iterator(
        self,
        inputs: Iterable[str],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        # All at once: the extractor knows which requests of all the texts to answer together.
        for result in self.extractor(inputs, **preprocess_params):
            yield self.postprocess(result, **postprocess_params)


def register() -> None:
    """Make the task known to `transformers`."""
    PIPELINE_REGISTRY.register_pipeline(
        "information-extraction",
        pipeline_class=InformationExtractionPipeline,
        pt_model=AutoModelForCausalLM,
        type="text",
    )
