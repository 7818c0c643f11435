"""Hypothesis strategies: a schema of a task, a record that it annotates, and options to make instances of it."""

from hypothesis import strategies as st

from iepile_builder import Schema, SchemaBatching
from iepile_builder.data.instructions import asked_schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import NOTHING


words = st.text("abcXY é人名", min_size=1, max_size=6).filter(lambda word: word.strip() and word != NOTHING)
names = st.text("abcdefgh 人名地", min_size=1, max_size=5).filter(str.strip)

OPTIONS = st.fixed_dictionaries(
    {
        "negatives": st.sampled_from(["hard", "random", "all", "ratio"]),
        "num_hard": st.sampled_from([None, 0, 1, 3]),
        "num_random": st.sampled_from([None, -1, 0, 1, 5]),
        "negative_ratio": st.sampled_from([0.0, 0.5, 1.0]),
        "split_num": st.sampled_from([None, -1, 1, 2, 3, 4, 6]),
        "schema_order": st.sampled_from(["random", "sorted", "schema", "grouped"]),
        "seed": st.integers(0, 3),
    }
)


def batching_of(task: str, schema: Schema, **options: object) -> SchemaBatching:
    return SchemaBatching(task, "en", "generated", schema, **options)


def asked_labels(instances: list[dict], task: str) -> list[str]:
    return [label for row in instances for label in TASKS[task].labels(asked_schema(row["instruction"], task))]


@st.composite
def annotated(draw: st.DrawFn, task: str) -> tuple[Schema, str, list[dict]]:
    """A schema, a text, and a list of annotations that may repeat, overlap, or not be in the text at all."""
    text = " ".join(draw(st.lists(words, min_size=1, max_size=8)))
    start = draw(st.integers(0, len(text) - 1))
    mentions = st.one_of(words, st.sampled_from([text, text[: start + 5], *text.split()]).filter(str.strip))
    labels = draw(st.lists(names, min_size=1, max_size=14, unique=True))
    annotations: st.SearchStrategy[dict]
    if task == "NER":
        schema = Schema(types=tuple(labels))
        annotations = st.fixed_dictionaries({"entity": mentions, "entity_type": st.sampled_from(labels)})
    elif task == "RE":
        schema = Schema(roles=tuple(labels))
        annotations = st.fixed_dictionaries({"head": mentions, "relation": st.sampled_from(labels), "tail": mentions})
    elif task == "SPO":
        triples = st.tuples(st.sampled_from("pq"), st.sampled_from([*labels[:4], "lives_in"]), st.sampled_from("rs"))
        asked = draw(st.lists(triples, min_size=1, max_size=14, unique=True))
        schema = Schema(
            types=tuple("_".join(triple) for triple in asked), roles=tuple({triple[1] for triple in asked})
        )
        annotations = st.builds(
            lambda triple, head, tail: {
                "head": head, "head_type": triple[0], "relation": triple[1], "tail": tail, "tail_type": triple[2],
            },
            st.sampled_from(asked), mentions, mentions,
        )  # fmt: skip
    elif task == "KG":
        attributes = [f"{label}{index}" for label in labels for index in range(2)]
        schema = Schema(type_roles={label: (f"{label}0", f"{label}1") for label in labels})
        annotations = st.fixed_dictionaries(
            {"head": mentions, "relation": st.sampled_from(attributes), "tail": mentions}
        )
    else:
        roles = draw(st.lists(names, max_size=4, unique=True))
        schema = Schema(tuple(labels), tuple(roles), {label: tuple(roles) for label in labels})
        arguments = st.fixed_dictionaries({"argument": mentions, "role": st.sampled_from(roles or [""])})
        annotations = st.fixed_dictionaries(
            {
                "event_trigger": st.one_of(st.just(""), mentions),
                "event_type": st.sampled_from(labels),
                "arguments": st.lists(arguments, max_size=4 if roles else 0),
            }
        )
    return schema, text, draw(st.lists(annotations, max_size=6))
