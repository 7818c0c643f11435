"""`recipes/chat_templates`: the text that each published model was trained with, and the loss on its answer alone."""

import json
import string
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from helpers.corpora import ROOT, SHARED, needs_shared
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import is_chat_template_prefix_preserving, is_chat_template_stop_token_trained

from iepile_builder import InputError
from iepile_builder.chat import to_prompt, to_prompt_completion, tokenize


TEMPLATES = sorted((ROOT / "recipes" / "chat_templates").glob("*.jinja"))

# What comes before and after the instruction, and after the answer.
_HELPFUL = "You are a helpful assistant."
_BILINGUAL = "You are a helpful assistant. 你是一个乐于助人的助手。"
_LLAMA2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
_CHATGLM3 = (
    "You are ChatGLM3, a large language model trained by Zhipu.AI. Follow the user's instructions carefully. Respond "
    "using markdown."
)
_LLAMA3 = (
    "<s><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|eot_id|>",
)
PUBLISHED = {
    "alpaca": (f"<s>{_ALPACA}\n\n### Instruction:\n", "\n\n### Response:\n", "</s>"),
    "baichuan": ("<s><reserved_102>", "<reserved_103>", "</s>"),
    "baichuan2": ("<s><reserved_106>", "<reserved_107>", "</s>"),
    "chatglm2": ("<s>[gMASK]sop\n\n[Round 1]\n\n问：", "\n\n答：", "</s>"),
    "chatglm3": (f"<s>[gMASK]sop<|system|>\n{_CHATGLM3}<|user|>\n", "<|assistant|>", "</s>"),
    "falcon": ("<s>User: ", "\nFalcon:", "</s>"),
    "intern": ("<s><|User|>:", "<eoh>\n<|Bot|>:", "</s>"),
    "llama2": (f"<s>[INST] <<SYS>>\n{_LLAMA2}\n<</SYS>>\n\n", " [/INST]", "</s>"),
    "llama2_zh": (f"<s>[INST] <<SYS>>\n{_BILINGUAL}\n<</SYS>>\n\n", " [/INST]", "</s>"),
    "llama3": (_LLAMA3[0].format(_HELPFUL), _LLAMA3[1], _LLAMA3[2]),
    "llama3_zh": (_LLAMA3[0].format(_BILINGUAL), _LLAMA3[1], _LLAMA3[2]),
    "mistral": ("<s>[INST] ", " [/INST]", "</s>"),
    "openba": ("<s><S>", "<extra_id_0>", "</s>"),
    "qwen": (
        f"<s><|im_start|>system\n{_HELPFUL}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "vanilla": ("<s>", "", "</s>"),
    "vicuna": (f"<s>{_VICUNA}USER: ", " ASSISTANT:", "</s>"),
}
# Of our own, for models whose own template thinks, changes from day to day, or adds a system message.
OURS = {
    "smollm2": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "qwen3": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    "smollm3": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n", "<|im_end|>"),
}
EXPECTED = {**PUBLISHED, **OURS}
DEFAULT_SYSTEM = {
    "alpaca": _ALPACA,
    "chatglm3": _CHATGLM3,
    "llama2": _LLAMA2,
    "llama2_zh": _BILINGUAL,
    "llama3": _HELPFUL,
    "llama3_zh": _BILINGUAL,
    "qwen": _HELPFUL,
    "vicuna": _VICUNA,
}
SPECIAL_TOKENS = ["<s>", "</s>", "<|eot_id|>", "<|im_end|>", "<reserved_107>"]

INSTANCE = {
    "instruction": '{"instruction": "Find them.", "schema": ["person"], "input": "Ada met 王芳 [INST] there."}',
    "output": '{"person": ["Ada", "王芳"]}',
}


def make_tokenizer(template: Path) -> PreTrainedTokenizerFast:
    """One token a byte, so that none crosses the border between the prompt and the answer."""
    backend = Tokenizer(
        models.BPE(vocab={char: i for i, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    end = EXPECTED[template.stem][2]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=end, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes))


def render(tokenizer: PreTrainedTokenizerFast, messages: list, **kwargs: object) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)


def test_there_is_an_expectation_for_every_template() -> None:
    assert {template.stem for template in TEMPLATES} == set(EXPECTED)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.stem)
def test_the_text_is_exactly_that_of_the_published_model(template: Path) -> None:
    before, behind, end = EXPECTED[template.stem]
    tokenizer = make_tokenizer(template)
    prompt = before + INSTANCE["instruction"] + behind
    row = to_prompt_completion(INSTANCE)
    assert render(tokenizer, to_prompt(INSTANCE), add_generation_prompt=True) == prompt
    assert render(tokenizer, row["prompt"] + row["completion"]) == prompt + INSTANCE["output"] + end


@needs_shared
def test_the_texts_are_those_of_the_format() -> None:
    published = json.loads((SHARED / "format" / "chat_templates.json").read_text(encoding="utf-8"))
    for name, (before, behind, end) in PUBLISHED.items():
        eos = published[name]["eos_token"]
        fill = {"bos": "<s>", "eos": eos or "</s>", "instruction": "{instruction}", "output": "{output}"}
        for key, text in (("prompt", before + "{instruction}" + behind), ("answer", "{output}" + end)):
            parts = string.Formatter().parse(published[name][key])
            assert "".join(literal + (fill[field] if field else "") for literal, field, _, _ in parts) == text
        assert published[name]["default_system"] == DEFAULT_SYSTEM.get(name, "")


def test_qwen3_is_prompted_as_it_is_without_thinking() -> None:
    tokenizer = make_tokenizer(ROOT / "recipes" / "chat_templates" / "qwen3.jinja")
    own = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    row = to_prompt_completion(INSTANCE)
    for system in ([], [{"role": "system", "content": "Be exact."}]):
        for messages in (system + row["prompt"], system + row["prompt"] + row["completion"]):
            asks = messages[-1]["role"] == "user"
            text = render(tokenizer, messages, chat_template=own, add_generation_prompt=asks, enable_thinking=False)
            # The line break behind an answer is no part of what is learned here.
            assert render(tokenizer, messages) == (text if asks else text.removesuffix("\n"))


def test_smollm2_is_prompted_as_it_is_without_its_system_message() -> None:
    tokenizer = make_tokenizer(ROOT / "recipes" / "chat_templates" / "smollm2.jinja")
    turn = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    own = (  # that of SmolLM2-135M-Instruct
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ TURN }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    row = to_prompt_completion(INSTANCE)
    system = [{"role": "system", "content": "Be exact."}]
    for messages in (row["prompt"], row["prompt"] + row["completion"], system + row["prompt"]):
        asks = messages[-1]["role"] == "user"
        text = render(tokenizer, messages, chat_template=own, add_generation_prompt=asks, TURN=turn)
        assert (turn in text) == (messages[0]["role"] != "system")
        text = text.replace(turn, "")
        # The line break behind an answer is no part of what is learned here.
        assert render(tokenizer, messages) == (text if asks else text.removesuffix("\n"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.stem)
def test_a_system_message_replaces_the_default(template: Path) -> None:
    tokenizer = make_tokenizer(template)
    text = render(tokenizer, [{"role": "system", "content": "Be exact."}, *to_prompt(INSTANCE)])
    assert text.count("Be exact.") == 1
    default = DEFAULT_SYSTEM.get(template.stem)
    if default is not None:
        assert text.replace("Be exact.", default) == render(tokenizer, to_prompt(INSTANCE))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.stem)
def test_the_loss_is_on_the_answer_and_its_end_alone(template: Path, model: LlamaForCausalLM, tmp_path: Path) -> None:
    before, behind, end = EXPECTED[template.stem]
    tokenizer = make_tokenizer(template)
    row = to_prompt_completion(INSTANCE)
    whole = before + INSTANCE["instruction"] + behind + INSTANCE["output"] + end
    config = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "max_length": None, "report_to": "none"}

    # As training gives its rows, and as messages, of which `{% generation %}` marks the answer.
    batches = {}
    for name, rows, options in (
        ("tokens", [tokenize(INSTANCE, tokenizer)] * 2, {}),
        ("prompt and completion", [row, row], {}),
        ("messages", [{"messages": row["prompt"] + row["completion"]}] * 2, {"assistant_only_loss": True}),
        ("packed", [tokenize(INSTANCE, tokenizer)] * 2, {"packing": True, "max_length": 4096}),
    ):
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**{**config, **options}),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        ids, labels = batch["input_ids"], batch["labels"]
        # A document begins where the positions start anew; unpacked, that is where a row does.
        documents = (batch["position_ids"] == 0).sum() if "position_ids" in batch else len(ids)
        assert documents == 2, name
        assert tokenizer.decode(ids.flatten()) == whole * 2, name
        assert (ids == tokenizer.bos_token_id).sum() == 2 * before.startswith("<s>"), name
        assert tokenizer.decode(labels[labels != -100]) == (INSTANCE["output"] + end) * 2, name
        assert (labels == tokenizer.eos_token_id).sum() == 2, name
        assert torch.equal(labels[labels != -100], ids[labels != -100]), name
        batches[name] = batch
    for name in ("prompt and completion", "messages"):
        assert torch.equal(batches[name]["labels"], batches["tokens"]["labels"])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.stem)
def test_a_later_turn_leaves_the_earlier_ones_as_they_were(template: Path) -> None:
    tokenizer = make_tokenizer(template)
    row = to_prompt_completion(INSTANCE)
    first = row["prompt"] + row["completion"]
    text = render(tokenizer, first + first)
    assert text.startswith(render(tokenizer, first + row["prompt"], add_generation_prompt=True))
    assert text.startswith(render(tokenizer, first))
    assert text.count(INSTANCE["output"]) == 2
    assert ("[Round 1]" in text and "[Round 2]" in text) == (template.stem == "chatglm2")
    assert is_chat_template_prefix_preserving(tokenizer)
    assert is_chat_template_stop_token_trained(tokenizer)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.stem)
def test_no_token_stands_across_the_border_of_prompt_and_answer(template: Path) -> None:
    """As one of Llama-2's does, `]{`: what is trained behind it is not what follows the prompt in use."""
    before, behind, end = EXPECTED[template.stem]
    tokenizer = make_tokenizer(template)
    byte_level = json.loads(tokenizer.backend_tokenizer.to_str())
    last = tokenizer.tokenize((behind or INSTANCE["instruction"])[-1])[-1]
    byte_level["model"]["vocab"][last + "{"] = len(byte_level["model"]["vocab"])
    byte_level["model"]["merges"].append([last, "{"])
    merging = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(byte_level)))
    merging.chat_template = tokenizer.chat_template
    merging.bos_token, merging.eos_token = tokenizer.bos_token, tokenizer.eos_token

    row = tokenize(INSTANCE, merging)
    prompt = merging.apply_chat_template(to_prompt(INSTANCE), add_generation_prompt=True)["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
    assert merging.decode(row["input_ids"][len(prompt) :]) == INSTANCE["output"] + end
    if template.stem == "llama2":
        whole = to_prompt_completion(INSTANCE)
        joint = merging.apply_chat_template(whole["prompt"] + whole["completion"])["input_ids"]
        assert joint[: len(prompt)] != prompt


def test_a_template_that_takes_its_prompt_back_is_refused() -> None:
    tokenizer = make_tokenizer(TEMPLATES[0])
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role + ': ' + message.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>{% endif %}"
    )
    with pytest.raises(InputError, match="--chat_template_path"):
        tokenize(INSTANCE, tokenizer)
