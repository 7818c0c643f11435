"""`pipeline("information-extraction", ...)` after `import iepile_builder.pipeline`."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import save_tiny_model

import iepile_builder.pipeline
from iepile_builder import Extraction, Extractor, InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.loading import load_model


TEXTS = ["Ada met Bob in Rome.", "Nothing happened.", "Ada went home. " * 20]
ASKED = {"task": "NER", "schema": ["person", "city"]}


def test_the_library_alone_does_not_touch_transformers() -> None:
    code = "import iepile_builder, sys; print('transformers' in sys.modules, len(sys.meta_path))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    untouched = subprocess.run(
        [sys.executable, "-c", "import datasets, sys; print('transformers' in sys.modules, len(sys.meta_path))"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == untouched.stdout, done.stderr


def test_it_extracts_as_the_extractor_does(tmp_path: Path) -> None:
    from transformers import pipeline

    assert iepile_builder.pipeline.register
    model = str(save_tiny_model(tmp_path))
    expected = list(Extractor.from_pretrained(model, max_new_tokens=16)(TEXTS, **ASKED))
    extract = pipeline("information-extraction", model=model, max_new_tokens=16, batch_size=2)
    assert extract(TEXTS[0], **ASKED) == expected[0].to_dict()
    assert extract(TEXTS, **ASKED) == [result.to_dict() for result in expected]
    results = extract((text for text in TEXTS), as_dict=False, **ASKED)
    assert not isinstance(results, list)
    assert [result.answers for result in results] == [result.answers for result in expected]
    assert isinstance(extract(TEXTS[0], as_dict=False, **ASKED), Extraction)


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    from transformers import pipeline

    model = str(save_tiny_model(tmp_path))
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template: give tokenizer="):
        pipeline("information-extraction", model=load_model(model), tokenizer=tokenizer)
