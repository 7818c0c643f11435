"""`pipeline("information-extraction", ...)` after `import iepile_builder`, whichever is imported first."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import save_tiny_model

import iepile_builder
from iepile_builder import Extraction, Extractor, InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.loading import load_model


ORDER = """
import sys
{first}
assert ("torch" in sys.modules) == {loaded}
{second}
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
task = PIPELINE_REGISTRY.check_task("information-extraction")[1]
print(task["impl"].__module__, not any(type(finder).__name__ == "_AfterPipelines" for finder in sys.meta_path))
"""
TEXTS = ["Ada met Bob in Rome.", "Nothing happened.", "Ada went home. " * 20]
ASKED = {"task": "NER", "schema": ["person", "city"]}


@pytest.mark.parametrize(
    ("first", "second", "loaded"),
    [
        ("import iepile_builder", "import transformers", False),
        ("from transformers import pipeline", "import iepile_builder", True),
    ],
)
def test_it_is_registered_and_costs_nothing_before(first: str, second: str, loaded: bool) -> None:
    code = ORDER.format(first=first, second=second, loaded=loaded)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "iepile_builder.extraction.pipeline True\n", done.stderr


def test_it_extracts_as_the_extractor_does(tmp_path: Path) -> None:
    from transformers import pipeline

    assert iepile_builder.__version__
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
