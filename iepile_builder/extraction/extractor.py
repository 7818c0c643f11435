"""Extract facts from a text with a schema, through any engine, and align them with the text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain, islice, repeat, takewhile
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tqdm import tqdm

from iepile_builder.answers.scores import Calibration
from iepile_builder.chat import to_prompt
from iepile_builder.data.batching import SchemaBatching
from iepile_builder.data.instructions import read_answer_schema, read_asked
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.engines.endpoint import EndpointEngine
from iepile_builder.engines.loading import find_base, find_calibration, find_weights, shipped_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.engines.vllm import VLLMEngine
from iepile_builder.errors import InputError
from iepile_builder.extraction.passages import HAN, Passage, detect_language, passages
from iepile_builder.extraction.result import Extraction, Extractions
from iepile_builder.extraction.user_schema import (
    CallOptions,
    Triggers,
    check_call,
    check_numbers,
    is_model,
    make_batchings,
    read_tasks,
    read_triggers,
    show,
)
from iepile_builder.extraction.work import Job, Work, merge_answers, score_rivals, start_clock
from iepile_builder.io import SURROGATE
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.facts import Annotation


if TYPE_CHECKING:
    from pydantic import BaseModel
    from typing_extensions import Unpack

    from iepile_builder.extraction.records import Records

    M = TypeVar("M", bound=BaseModel)

REQUESTS_TIMED = 8  # that an engine is given between two looks at the clock, where there is a time limit
MIN_ROOM = 32  # tokens for a passage
MISSING = object()  # in place of triggers, where a list of them is too short
SAMPLE = 20_000  # characters whose tokens are counted


@dataclass
class Extractor:
    """
    Extract facts from texts with a schema of the user's own.

        extractor = Extractor.from_pretrained("path/or/hub-id", adapter="path/or/hub-id")
        result = extractor("Ada Lovelace met Charles Babbage.", task="NER", schema=["person", "city"])
        print(result.facts, result.facts[0].entity.start)

    Args:
        engine ([`~iepile_builder.engines.base.Engine`]):
            The model, in this process or behind a server.
        max_new_tokens (`int`, *optional*, defaults to 512):
            Maximum length of an answer in tokens. One that is cut is asked again for half of the labels at a time.
        constrained (`bool`, *optional*, defaults to `True`):
            Whether to constrain the answers to valid JSON of the requested form, where the engine can.
        copied (`bool`, *optional*):
            Whether to allow only strings of the text, of whole words. By default in NER, RE and EE, where this scores
            better, unless labels have descriptions or examples show other strings; with [`VLLMEngine`], which cannot
            for long texts, by default never. A server cannot do it.
        repair (`bool`, *optional*, defaults to `True`):
            Whether to read near-JSON as well.
        passage_tokens (`int`, *optional*, defaults to 384):
            Maximum number of tokens in a passage; a longer text is cut between sentences.
        overlap (`int`, *optional*, defaults to 1):
            Number of sentences that consecutive passages share.
        min_similarity (`float`, *optional*, defaults to 0.85):
            Minimum similarity of a string to a span of the text, to be aligned with it; see [`Locator`].
        min_score (`float`, *optional*, defaults to 0.0):
            Leave out facts with a lower score, or with none; 0 for all facts. The engine must be loaded with
            `scores=True`.
        multi_label (`bool`, *optional*, defaults to `False`):
            Whether an entity of NER may have several labels. If not, the one with the highest score is kept; answers
            that give several are scored for it. With vLLM or a server, unless loaded with `scores=True`, all are kept.
        calibration ([`~iepile_builder.answers.scores.Calibration`], *optional*):
            Makes scores probabilities; [`Extractor.from_pretrained`] takes that of the adapter or model.
        drop_ungrounded (`bool`, *optional*, defaults to `False`):
            Whether to leave out facts with a string that is not in the text.
        max_seconds (`float`, *optional*):
            Time limit of a call, for all of its texts, after which it raises an `InputError`. A request that is being
            answered is not interrupted.
        progress (`bool` or `Callable[[int, int], None]`, *optional*, defaults to `False`):
            Whether to show a progress bar where the standard error is a terminal; or a function that is called with
            the numbers of answers so far and in all.
        requests_at_once (`int`, *optional*):
            Number of requests that the engine is given at once, so that it can put those of similar length together:
            each time it waits for the last answer. By default 4 batches, 8 for each request on its way to a server,
            4096 with vLLM; 64 for an engine of one's own without an attribute `window`.
    """

    engine: Engine
    max_new_tokens: int = 512
    constrained: bool = True
    copied: bool | None = None
    repair: bool = True
    passage_tokens: int = 384
    overlap: int = 1
    min_similarity: float = 0.85
    min_score: float = 0.0
    multi_label: bool = False
    calibration: Calibration | None = None
    drop_ungrounded: bool = False
    max_seconds: float | None = None
    progress: bool | Callable[[int, int], None] = False
    requests_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.copied is None and isinstance(self.engine, VLLMEngine):
            self.copied = False
        if self.copied and isinstance(self.engine, EndpointEngine):
            raise InputError("copied: not available with a server, whose JSON schemas cannot hold strings to a text")
        if not hasattr(self.engine, "generate"):
            raise InputError(f"the engine is {show(self.engine)}; Extractor.from_pretrained(...) loads a model")
        if self.requests_at_once is None:
            self.requests_at_once = getattr(self.engine, "window", 64)
        check_numbers(self)
        if self.min_score > 0 and not getattr(self.engine, "scores", True):
            raise InputError("min_score needs the scores of facts: load the engine with scores=True (--scores)")

    @classmethod
    def from_pretrained(cls, model: str | None = None, adapter: str | None = None, **kwargs: Any) -> Extractor:
        """
        Make an extractor with a model of `transformers` in this process.

        Args:
            model (`str`, *optional*):
                A folder or a Hub id. By default the base model that the adapter's `adapter_config.json` names; without
                an adapter, SmolLM2-135M-Instruct with the zero-shot adapter of this package.
            adapter (`str`, *optional*):
                Folder or Hub id of a PEFT adapter of the model.
            **kwargs:
                Those of [`Extractor`], and those of
                [`TransformersEngine.from_pretrained`][iepile_builder.engines.transformers.TransformersEngine.from_pretrained].
        """
        options = take_options(kwargs)
        if options.get("min_score"):
            kwargs.setdefault("scores", True)
        try:
            if model is None and adapter is None:
                model, adapter = shipped_model()
            else:
                model = find_weights(model or find_base(str(adapter)))
            calibration = find_calibration(model, adapter)
            if calibration is not None and options.get("constrained", True) and kwargs.get("constrain") != "off":
                kwargs.setdefault("empty_bias", calibration.empty_bias)
            kwargs.setdefault("keep_prefixes", True)
            engine = TransformersEngine.from_pretrained(model, adapter, **kwargs)
            options.setdefault("calibration", calibration)
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed: pip install 'iepile-builder[extract]'") from None
        return cls(engine, **options)

    @classmethod
    def from_endpoint(cls, base_url: str, **kwargs: Any) -> Extractor:
        """
        Make an extractor with a model behind an OpenAI-compatible server.

        Args:
            base_url (`str`):
                The server's address, such as `"http://127.0.0.1:8000/v1"`.
            **kwargs:
                Those of [`Extractor`], and those of [`~iepile_builder.engines.endpoint.EndpointEngine`], such as
                `model`.
        """
        options = take_options(kwargs)
        return cls(EndpointEngine(base_url, **kwargs), **options)

    @overload
    def __call__(
        self,
        text: str,
        task: str,
        schema: Any,
        **options: Unpack[CallOptions],
    ) -> Extraction: ...

    @overload
    def __call__(
        self,
        text: Iterable[str],
        task: str,
        schema: Any,
        **options: Unpack[CallOptions],
    ) -> Iterator[Extraction]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, text: str, task: Mapping[str, Any], **options: Unpack[CallOptions]
    ) -> Extractions: ...

    @overload
    def __call__(
        self, text: Iterable[str], task: Mapping[str, Any], **options: Unpack[CallOptions]
    ) -> Iterator[Extractions]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, text: str, task: type[M], **options: Unpack[CallOptions]
    ) -> Records[M]: ...

    @overload
    def __call__(self, text: Iterable[str], task: type[M], **options: Unpack[CallOptions]) -> Iterator[Records[M]]: ...

    def __call__(
        self,
        text: str | Iterable[str],
        task: str | Mapping[str, Any] | type[BaseModel],
        schema: Any = None,
        examples: Sequence[Mapping[str, Any]] = (),
        language: str | None = None,
        triggers: Triggers | Extraction | Iterable[Triggers | Extraction] | None = None,
        split_num: int | None = None,
    ) -> Any:
        """
        Extract what a schema asks for.

        Args:
            text (`str` or an iterable of `str`):
                The text, or a document, see [`~iepile_builder.extraction.documents.read_document`]; of several, the
                results come in their order, one by one.
            task (`str`, `dict[str, Any]` or a class of `pydantic.BaseModel`):
                The name of a task, such as `"NER"`, or the schemas of several, which are asked for together:
                `{"entities": ["person"], "relations": {"founder": "who founded it"}, "events": {"resign": ["who"]}}`.
                The keys are `entities`, `relations`, `typed_relations`, `events`, `triggers`, `arguments` and
                `attributes`, or names of tasks. Or a Pydantic model whose instances are wanted, see
                [`~iepile_builder.extraction.records`].
            schema (`list`, `dict`, `str`, `Path`, [`Schema`] or a class of `pydantic.BaseModel`, *optional*):
                What to ask for, see [`~iepile_builder.extraction.user_schema.read_schema`], where `task` is a name. It
                is asked for in batches of `split_num`, as in training.
            examples (`Sequence[Mapping[str, Any]]`, *optional*, defaults to `()`):
                Annotated records, in the form that corpora have, that each instruction shows with their answers. Of
                several tasks, each shows the records with its annotation.
            language (`str`, *optional*):
                Code of the texts' language, such as `"en"`, `"zh"` or `"de"`, by whose rules sentences end; the
                instruction is Chinese for `"zh"`, else English. By default `"zh"` or `"en"`, as each text is.
            triggers (`dict[str, list[str]]` or [`Extraction`], or an iterable of them, *optional*):
                For EEA, which asks for the arguments of known events: event type to triggers, or the result of EET or
                EE for the same text. For several texts, one for each.
            split_num (`int`, *optional*):
                Labels in one instruction; -1 for all in one. By default the task's.

        Returns:
            [`Extraction`] or `Iterator[Extraction]`: the result, or those of several texts. Of several tasks,
            [`Extractions`]: a dictionary from the key of each task to its [`Extraction`]. Of a Pydantic model,
            [`~iepile_builder.extraction.records.Records`].

        Raises:
            `InputError`: if there is nothing to be read or to be asked for, the model's context is too small, or the
                time is up.
        """
        check_call(text, task, schema, triggers)
        several = not isinstance(task, str)
        plan = None
        if is_model(task):
            from iepile_builder.extraction.records import RecordPlan

            plan = RecordPlan(task)
            task = plan.schema
        schemas: Mapping[str, Any] = task if isinstance(task, Mapping) else {str(task): schema}
        tasks = read_tasks(schemas) if several else {str(task): find_task(str(task))}
        batchings = make_batchings(schemas, tasks, examples, language, triggers, split_num)
        texts = [text] if isinstance(text, str) else text
        given: Any = [triggers] if isinstance(text, str) else repeat(None) if triggers is None else triggers
        stream = self._stream(texts, given, batchings)
        results: Iterator[Any] = (
            Extractions(zip(tasks, found, strict=True)) if several else found[0] for found in stream
        )
        if plan:
            results = map(plan.read, results)
        return next(results) if isinstance(text, str) else results

    def _stream(
        self, texts: Iterable[str], triggers: Iterable[Any], batchings: Sequence[SchemaBatching]
    ) -> Iterator[list[Extraction]]:
        """Yield the results of each text, one of each batching, in their order."""
        works: deque[list[Work]] = deque()
        check_time = start_clock(self.max_seconds)
        at_once = REQUESTS_TIMED if self.max_seconds is not None else self.requests_at_once
        merge = partial(
            merge_answers,
            repair=self.repair,
            min_similarity=self.min_similarity,
            min_score=self.min_score,
            multi_label=self.multi_label,
            calibration=self.calibration,
            drop_ungrounded=self.drop_ungrounded,
            show_scores=getattr(self.engine, "scores", True),
        )

        def jobs() -> Iterator[Job]:
            of_texts = iter(triggers)
            for number, text in enumerate(texts, start=1):
                if not isinstance(text, str):
                    raise InputError(f"text {number} is {show(text)}; give a string")
                if not text.strip():
                    raise InputError(f"text {number} is empty; give some text")
                given: Any = next(of_texts, MISSING)
                if given is MISSING:
                    raise InputError(f"text {number} has no triggers; give those of each text")
                clean = SURROGATE.sub("\ufffd", text)
                language = detect_language(clean)
                pages = getattr(text, "pages", ())  # of a Document
                asking = [replace(each, language=each.language or language) for each in batchings]
                of_text = [Work(clean, pages, each, check_time) for each in asking]
                planned = [self._plan(work, given) for work in of_text]
                for work, of_work in zip(of_text, planned, strict=True):
                    work.open = len(of_work)
                    bar.total += len(of_work)
                works.append(of_text)
                yield from chain.from_iterable(planned)

        def finished() -> Iterator[list[Extraction]]:
            done = list(takewhile(lambda of_text: not any(work.open for work in of_text), works))
            # vLLM's scores have not run on a GPU: only where they are asked for
            if not self.multi_label and not isinstance(self.engine, VLLMEngine):
                score_rivals(chain.from_iterable(done), self.engine)
            for of_text in done:
                works.popleft()
                yield [merge(work) for work in of_text]

        waiting = jobs()
        hidden = None if self.progress is True else True  # None: unless on a terminal
        answered = 0
        with tqdm(total=0, unit="answer", desc="Extracting", leave=False, disable=hidden) as bar:
            while batch := list(islice(waiting, at_once)):
                while batch:
                    check_time()
                    part, batch = batch[:at_once], batch[at_once:]
                    if callable(self.progress):
                        self.progress(answered, bar.total)
                    completions = self.engine.generate([job.request for job in part], self.max_new_tokens)
                    again = list(map(self._receive, part, completions))
                    batch += chain.from_iterable(again)
                    bar.total += sum(map(len, again))
                    bar.update(len(part))
                    answered += len(part)
                if callable(self.progress):
                    self.progress(answered, bar.total)
                yield from finished()
        yield from finished()

    def _plan(self, work: Work, triggers: Triggers | Extraction | None) -> list[Job]:
        """List the requests about a text: for each passage, those for all labels."""
        text, batching = work.text, work.batching
        sample, whole = Passage(0, min(SAMPLE, len(text))), Passage(0, len(text))
        known = read_triggers(triggers if TASKS[batching.task].triggers_given else None, text, batching)
        empty = self._ask(work, batching, Passage(0, 0), known(whole))
        if not empty:  # EEA, without any trigger
            return []
        longest = max(empty, key=lambda job: len(job.instruction))
        room = self.engine.context_left(longest.request, self.max_new_tokens)
        if room is None:
            chinese = len(HAN.findall(text, 0, sample.end))
            tokens = chinese + (sample.end - chinese) / 4
        else:
            filled = self._ask(work, replace(batching, labels=longest.labels, split_num=-1), sample, known(whole))
            tokens = room - (self.engine.context_left(filled[0].request, self.max_new_tokens) or 0)
            if room < min(tokens, MIN_ROOM):
                raise self._context_error(longest, room)
        budget = self.passage_tokens if room is None else min(self.passage_tokens, room)
        size = int(budget * sample.end / max(tokens, 1))
        while True:
            jobs: list[Job] = []
            fits = True
            for passage in passages(text, batching.language, max(size, 1), self.overlap):
                work.check_time()
                together = self._ask(work, batching, passage, known(passage))
                jobs += together
                if room is not None and together:
                    request = max(together, key=lambda job: len(job.instruction)).request
                    fits = fits and (self.engine.context_left(request, self.max_new_tokens) or 0) >= 0
            if fits:
                return jobs
            size //= 2  # some part of the text has more tokens than its sample says
            if size == 0:
                raise self._context_error(longest, room or 0)

    def _ask(
        self, work: Work, batching: SchemaBatching, passage: Passage, annotations: list[Annotation] | None
    ) -> list[Job]:
        """List the requests for all labels about a passage, in the form of training."""
        task, text = TASKS[batching.task], work.text[passage.start : passage.end]
        jobs = []
        for instance in batching.instances("", text, annotations):
            instruction = instance["instruction"]
            labels = task.labels(read_asked(instruction, task.name)[0].schema)
            form = read_answer_schema(instruction, task.name, self.copied) if self.constrained else None
            request = Request(to_prompt(instance), form, task.name)
            jobs.append(Job(work, passage, labels, instruction, request, annotations))
        return jobs

    def _context_error(self, job: Job, room: int) -> InputError:
        """Make the error for a context in which no text has room."""
        kept = f"{room} tokens" if room > 0 else "no room"
        return InputError(
            f"the model's context leaves {kept} for the text beside {len(job.labels)} labels asked at once, their "
            f"examples and an answer of {self.max_new_tokens} tokens: lower split_num or max_new_tokens, give fewer "
            "examples, or use a model with a longer context"
        )

    def _receive(self, job: Job, completion: Completion) -> list[Job]:
        """Keep an answer, or ask again for half of the labels at a time if it was cut."""
        work = job.work
        if completion.cut and len(job.labels) > 1:
            middle = len(job.labels) // 2
            again = []
            for labels in (job.labels[:middle], job.labels[middle:]):
                batching = replace(work.batching, labels=labels, split_num=-1)
                again += self._ask(work, batching, job.passage, job.annotations)
            work.retried += 1
            work.open += len(again) - 1
            return again
        work.open -= 1
        work.answers.append((job, completion))
        return []


def take_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of [`Extractor`] out of those that are meant for it and its engine."""
    return {each.name: kwargs.pop(each.name) for each in fields(Extractor) if each.name in kwargs}
