"""Serve a page to try the metric: one record, one answer, the scores and the full report."""

import json
from typing import get_args

import gradio as gr

from iepile_builder import InputError
from iepile_builder.scoring.matching import Matching, Mode
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


EXAMPLES = [
    [
        "NER",
        "Ada Lovelace met Charles Babbage in London.",
        '["person", "city"]',
        '[{"entity": "Ada Lovelace", "entity_type": "person"}, {"entity": "London", "entity_type": "city"}]',
        '{"person": ["Ada", "Charles Babbage"], "city": ["London"]}',
    ],
    [
        "RE",
        "Ada Lovelace was a daughter of Lord Byron.",
        '["father"]',
        '[{"head": "Ada Lovelace", "relation": "father", "tail": "Lord Byron"}]',
        "{'father': [{'subject': 'Ada Lovelace', 'object': 'Lord Byron'}]}",
    ],
    [
        "EE",
        "Ada met Charles in 1833.",
        '[{"event_type": "meet", "trigger": true, "arguments": ["who", "when"]}]',
        '[{"event_type": "meet", "event_trigger": "met", "arguments": [{"role": "who", "argument": "Ada"}]}]',
        '{"meet": [{"trigger": "met", "arguments": {"who": ["Ada", "Charles"], "when": "1833"}}]}',
    ],
]
SCORES = ("precision", "recall", "f1", "tp", "pred", "gold")


def score(
    task: str, text: str, schema: str, label: str, output: str, mode: Mode, min_overlap: float, repair: bool
) -> tuple[list[list], dict]:
    """Compute the scores of one answer, and the full report."""
    try:
        items = json.loads(schema)
    except ValueError as error:
        raise gr.Error(f"The schema is not JSON: {error}") from None
    instruction = json.dumps({"instruction": "", "schema": items, "input": text})
    scorer = Scorer(repair)
    try:
        scorer.add(
            {"id": "1", "task": task, "source": "page", "instruction": instruction, "label": label, "output": output}
        )
        report = scorer.report(Matching(mode, min_overlap))
    except InputError as error:
        raise gr.Error(str(error)) from None
    blocks = {"all facts": report["overall"]}
    if len(TASKS[task].blocks) > 1:
        blocks |= report["tasks"][task]
    return [[name, *(round(block[column], 2) for column in SCORES)] for name, block in blocks.items()], report


with gr.Blocks(title="IE F1") as demo:
    gr.Markdown(
        "# IE F1\nPrecision, recall and F1 over the facts in a language model's JSON answer to an information "
        "extraction instruction. The same numbers as `evaluate.load` gives; see the metric's card for all options."
    )
    with gr.Row():
        with gr.Column():
            task = gr.Dropdown(list(TASKS), value="NER", label="Task")
            text = gr.Textbox(label="Text", lines=2)
            schema = gr.Textbox(label="Schema items (JSON list)", lines=2)
            label = gr.Textbox(label="Annotation (JSON list)", lines=3)
            output = gr.Textbox(label="The model's answer", lines=3)
        with gr.Column():
            mode = gr.Dropdown(list(get_args(Mode)), value="strict", label="Match mode")
            min_overlap = gr.Slider(0, 1, value=0, label="Minimum overlap (modes type and partial)")
            repair = gr.Checkbox(label="Repair answers that are only nearly JSON")
            button = gr.Button("Score", variant="primary")
            table = gr.Dataframe(headers=["", *SCORES], label="Scores", interactive=False)
            report = gr.JSON(label="Report", open=False)
    inputs = [task, text, schema, label, output]
    gr.Examples(EXAMPLES, inputs)
    button.click(score, [*inputs, mode, min_overlap, repair], [table, report])
    demo.load(lambda: EXAMPLES[0], outputs=inputs)

if __name__ == "__main__":
    demo.launch()
