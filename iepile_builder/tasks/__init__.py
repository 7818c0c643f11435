"""
The tasks, a file each: annotation and answers to facts, labels to schema items, annotation to answers.

A *label* is what a schema batch is made of (an entity type, a relation, an event type, ...), a *schema item* is how an
instruction asks for it, and a *fact* is what gold annotation and a model's answer are both turned into. The formats
are those of the IEPile dataset (https://huggingface.co/papers/2402.14710).
"""

from iepile_builder.errors import InputError
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.events import EE, EEA, EET
from iepile_builder.tasks.graph import KG
from iepile_builder.tasks.ner import NER
from iepile_builder.tasks.relations import RE, SPO


TASKS: dict[str, Task] = {task.name: task for task in (NER(), RE(), SPO(), EE(), EET(), EEA(), KG())}


def find_task(name: str) -> Task:
    """Give the task of a name, or raise an `InputError` that lists the known ones."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]
