"""
Score any model that Inspect can ask (inspect.aisi.org.uk) on corpora, with the scorer of this library.

    pip install inspect-ai
    inspect eval recipes/inspect/ie.py --model openai/gpt-5-mini
    inspect eval recipes/inspect/ie.py --model hf/Qwen/Qwen3-4B -T corpus_dir=corpora -T tasks=NER,RE --limit 100
"""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from iepile_builder import IEPile
from iepile_builder.chat import to_prompt
from iepile_builder.io import SAMPLE_CORPUS
from iepile_builder.scoring.scorer import score


@task
def ie(corpus_dir: str = str(SAMPLE_CORPUS), tasks: str | list[str] = "NER,RE,EE", split: str = "test") -> Task:
    """
    Ask for all labels of the schema, in batches, about each record of a split.

    Args:
        corpus_dir: Folder of annotated corpora, by default the sample corpus of the package.
        tasks: Names of tasks, separated by commas.
        split: train, validation or test.
    """
    names = tasks.split(",") if isinstance(tasks, str) else tasks  # Inspect makes a list of `-T tasks=NER,RE`
    rows = IEPile(data_dir=corpus_dir, tasks=names, negatives="all").as_dataset(split=split)
    samples = [
        Sample(input=to_prompt(row)[0]["content"], id=number, metadata=dict(row)) for number, row in enumerate(rows, 1)
    ]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=facts())


def overall(name: str) -> Metric:
    """Score all answers together: facts are pooled, not averaged over answers."""

    def compute(scores: list[SampleScore]) -> float:
        return score(each.score.metadata for each in scores)["overall"][name]

    return compute


@metric
def f1() -> Metric:
    return overall("f1")


@metric
def precision() -> Metric:
    return overall("precision")


@metric
def recall() -> Metric:
    return overall("recall")


@scorer(metrics=[f1(), precision(), recall()])
def facts() -> Scorer:
    async def of_answer(state: TaskState, target: Target) -> Score:
        instance: dict[str, Any] = {**state.metadata, "output": state.output.completion}
        return Score(value=score([instance])["overall"]["f1"], answer=state.output.completion, metadata=instance)

    return of_answer
