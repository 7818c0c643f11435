"""
Extracts from a text what a schema asks for, and shows it in the terminal, as a page, or as JSON.

```bash
python scripts/extract.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/adapter \
    --text "Thomas Edison's laboratory is in West Orange." \
    --task RE --schema '["place of birth", "founder", "located in"]' --html outputs/edison.html
```

The text comes from `--text`, from a `--file`, or from the standard input; it may be of any length. The schema is JSON,
or a file of it, or a corpus's `schema.json`: a list of labels, a dictionary from label to description, or for EE, EEA
and KG one from type to roles. With `--base_url` the model behind an OpenAI-compatible server is asked. Arguments can
also stand in a YAML file, given with `--config`.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.extract", run_name="__main__")
