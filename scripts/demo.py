"""
A page to try extraction in the browser: a text, a task and a schema; the marked text, a graph, tables and the JSON.

```bash
python scripts/demo.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/adapter
```

The page is at http://127.0.0.1:7860, for this machine alone unless `--server_name 0.0.0.0` is given. With `--base_url`
the model behind an OpenAI-compatible server is asked. Nothing that is typed into the page is written to disk or to a
log. Arguments can also stand in a YAML file, given with `--config`.

In a Space, or any other program:

```python
from demo import LOOK, build_demo
from iepile_builder import Extractor

demo = build_demo(Extractor.from_pretrained("path/or/hub-id"))
demo.launch(**LOOK)
```
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.demo", run_name="__main__")
