"""Chat templates of model families, each written here in the family's documented format, on small real tokenizers."""

import json
import re
from dataclasses import dataclass, replace

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from toy import FORGET, RETAIN
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from methods.batch import IGNORE_INDEX
from orchestrator.finetune import FinetuneConfig
from orchestrator.load_config import ConfigError, build_config, load_config
from orchestrator.preflight import check, load_tokenizer_of
from orchestrator.scenarios.base import DataError
from orchestrator.trial_config import ModelConfig
from orchestrator.worker.batches import Encoder
from orchestrator.worker.generate import generate
from orchestrator.worker.template import DATE, load_tokenizer, template_for

QUESTION, ANSWER = FORGET[0].question, FORGET[0].answer
# Words with the space before them, line breaks by themselves: what the families' tokenizers have in common.
WORDS = Regex(r"\s*[\r\n]+|\s?\w+|[^\s\w]+|\s+")


@dataclass(frozen=True)
class Family:
    """A chat template, the tokens it needs, and the prompt that it should make of QUESTION, cut at special tokens."""

    template: str
    bos: str | None
    eos: str
    end: str
    prompt: tuple[str, ...]
    others: tuple[str, ...] = ()
    adds_bos: bool = True

    @property
    def special(self) -> list[str]:
        return list(dict.fromkeys(token for token in (self.bos, self.eos, self.end, *self.others) if token))


LLAMA_3_TURNS = r"""
{%- for m in messages -%}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"""
LLAMA_3_SYSTEM = r"""
{%- if date_string is not defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}
{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}
{{- 'Today Date: ' + date_string + '\n\n<|eot_id|>' }}"""
CHATML_TURNS = r"""
{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""
NO_THOUGHTS = r"""
{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking -%}
{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"""
PLAIN_TURNS = r"""
{%- for m in messages -%}{{ '<|' + m.role + '|>\n' + m.content + END + '\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"""
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")


def llama_3_turn(role: str, text: str) -> tuple[str, ...]:
    return (HEADERS[0], role, HEADERS[1], "\n\n" + text)


LLAMA_3_PROMPT = (*llama_3_turn("user", QUESTION), "<|eot_id|>", *llama_3_turn("assistant", ""))
LLAMA_3 = Family(
    template="{{ bos_token }}" + LLAMA_3_TURNS,
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    end="<|eot_id|>",
    prompt=("<|begin_of_text|>", *LLAMA_3_PROMPT),
    others=HEADERS,
)
SYSTEM = f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n"
LLAMA_31 = replace(
    LLAMA_3,
    template="{{ bos_token }}" + LLAMA_3_SYSTEM + LLAMA_3_TURNS,
    prompt=("<|begin_of_text|>", *llama_3_turn("system", SYSTEM), "<|eot_id|>", *LLAMA_3_PROMPT),
)
QWEN_25 = Family(
    template=r"{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}" + CHATML_TURNS,
    bos=None,
    eos="<|endoftext|>",
    end="<|im_end|>",
    prompt=(
        *("<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n"),
        *("<|im_start|>", f"user\n{QUESTION}", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
    ),
    others=("<|im_start|>",),
    adds_bos=False,
)
QWEN_3 = replace(
    QWEN_25,
    template=CHATML_TURNS + NO_THOUGHTS,
    prompt=(*QWEN_25.prompt[4:-1], "assistant\n<think>\n\n</think>\n\n"),
)
GEMMA = Family(
    template=r"""{{ bos_token }}
{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}""",
    bos="<bos>",
    eos="<eos>",
    end="<end_of_turn>",
    prompt=("<bos>", "<start_of_turn>", f"user\n{QUESTION}", "<end_of_turn>", "\n", "<start_of_turn>", "model\n"),
    others=("<start_of_turn>",),
)
ZEPHYR = Family(  # its roles are plain text, and BOS is left to the tokenizer
    template=PLAIN_TURNS.replace("END", "eos_token"),
    bos="<s>",
    eos="</s>",
    end="</s>",
    prompt=("<s>", f"<|user|>\n{QUESTION}", "</s>", "\n<|assistant|>\n"),
)
PHI_3 = Family(
    template=PLAIN_TURNS.replace("END", "'<|end|>'") + "{%- if not add_generation_prompt -%}{{ eos_token }}{% endif %}",
    bos="<s>",
    eos="<|endoftext|>",
    end="<|end|>",
    prompt=("<|user|>", f"\n{QUESTION}", "<|end|>", "\n", "<|assistant|>", "\n"),
    others=("<|user|>", "<|assistant|>"),
    adds_bos=False,
)
FAMILIES = {
    "llama3": LLAMA_3,
    "llama3.1": LLAMA_31,
    "qwen2.5": QWEN_25,
    "qwen3": QWEN_3,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "phi3": PHI_3,
}


def family_tokenizer(family, *, spaces=False):
    """Byte-level BPE as of Llama 3, Qwen and Gemma; with `spaces`, words after a mark as in Llama 2 and Zephyr."""
    tokenizer = Tokenizer(models.BPE())
    if spaces:
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        split = pre_tokenizers.Split(WORDS, "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=family.special,
        initial_alphabet=[*pre_tokenizers.ByteLevel.alphabet(), "\n"],
        show_progress=False,
    )
    texts = [f"{row.question}\n\n{row.answer}" for row in FORGET + RETAIN]
    tokenizer.train_from_iterator([row.answer for row in FORGET + RETAIN] if spaces else texts, trainer)
    if family.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos)
    fast.add_special_tokens(
        {"additional_special_tokens": [AddedToken(token, special=True) for token in family.special]}
    )
    fast.pad_token = fast.eos_token
    fast.chat_template = family.template
    return fast


def family_encoder(family, max_length=400, **options):
    tokenizer = family_tokenizer(family, **options)
    return Encoder(tokenizer, template_for("chat", tokenizer), max_length)


def text_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def expected_prompt(family, tokenizer):
    """The ids of each piece by itself."""
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in family.special}
    return [
        i for piece in family.prompt for i in ([special[piece]] if piece in special else text_ids(tokenizer, piece))
    ]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_row_is_prompt_and_answer_and_ends_its_turn(family):
    encoder = family_encoder(family)
    prompt = expected_prompt(family, encoder.tokenizer)
    answer = text_ids(encoder.tokenizer, ANSWER)
    end = encoder.tokenizer.convert_tokens_to_ids(family.end)
    row = encoder.encode(QUESTION, ANSWER)
    assert encoder.generation_ids(QUESTION) == prompt
    assert row.ids == (*prompt, *answer, end)
    assert row.labels == (*[IGNORE_INDEX] * len(prompt), *answer, end)
    assert row.num_attended == len(prompt) + len(answer)
    assert encoder.check_question(QUESTION) == len(prompt)
    bos = encoder.tokenizer.bos_token_id
    assert row.ids.count(bos) == (1 if family.adds_bos else 0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_counts_in_the_other_label_modes(family):
    encoder = family_encoder(family)
    text, everything = (encoder.encode(QUESTION, ANSWER, labels=mode) for mode in ("text", "all"))
    answer = encoder.encode(QUESTION, ANSWER)
    assert text.ids == everything.ids == everything.labels == answer.ids
    assert text.labels == (*answer.ids[:-1], IGNORE_INDEX)
    assert everything.pad_label == encoder.tokenizer.eos_token_id


def test_a_row_that_is_full_has_no_end_of_turn():
    whole = family_encoder(GEMMA).encode(QUESTION, ANSWER)
    num_prompt = len(family_encoder(GEMMA).generation_ids(QUESTION))
    for max_length in (len(whole.ids) - 1, len(whole.ids) - 2, num_prompt + 1):
        row = family_encoder(GEMMA, max_length).encode(QUESTION, ANSWER)
        assert row.ids == whole.ids[:max_length] and row.labels == whole.labels[:max_length]
        assert row.num_attended == max_length
    with pytest.raises(DataError, match=f"^question of {num_prompt} tokens leaves no room for an answer in max_length"):
        family_encoder(GEMMA, num_prompt).encode(QUESTION, ANSWER)


@pytest.mark.parametrize("family", [LLAMA_31, GEMMA], ids=["llama3.1", "gemma"])
def test_an_answer_is_kept_as_it_is_where_the_template_trims(family):
    encoder = family_encoder(family)
    for answer in ("  In Rome. \n", "In Rome.\n\n", " "):
        assert encoder.template.text(QUESTION, answer) == encoder.template.prompt(QUESTION) + answer
        row = encoder.encode(QUESTION, answer)
        learned = [i for i in row.labels if i != IGNORE_INDEX]
        assert encoder.tokenizer.decode(learned) == answer + family.end
    assert encoder.template.prompt(f" {QUESTION}\n") == encoder.template.prompt(QUESTION)


def test_the_prompt_begins_its_row_even_where_the_answer_would_merge_with_it():
    encoder = family_encoder(QWEN_25)
    tokenizer, prompt = encoder.tokenizer, encoder.generation_ids(QUESTION)
    joined = text_ids(tokenizer, encoder.template.text(QUESTION, "\nIn Rome."))
    assert joined[: len(prompt)] != prompt  # else this tests nothing
    row = encoder.encode(QUESTION, "\nIn Rome.")
    assert row.ids == (*prompt, *text_ids(tokenizer, "\nIn Rome."), encoder.end_id)
    assert row.num_counted == len(row.ids) - len(prompt)


def test_words_after_a_mark_are_those_of_the_whole_row():
    encoder = family_encoder(ZEPHYR, spaces=True)
    tokenizer = encoder.tokenizer
    row = encoder.encode(QUESTION, "In Rome.")
    assert row.ids[:-1] == tuple(tokenizer(encoder.template.text(QUESTION, "In Rome."))["input_ids"])
    assert row.ids.count(tokenizer.bos_token_id) == 1
    learned = tokenizer.convert_ids_to_tokens([i for i in row.labels if i != IGNORE_INDEX])
    assert "".join(learned) == "In▁Rome.</s>"  # by itself the answer would begin with a mark


CLOCK = "{{ bos_token }}{{ strftime_now('%Y-%m-%d') }}\n" + LLAMA_3_TURNS


GIVEN = "{{ bos_token }}{{ date_string | default('01 Jan 2020') }}" + LLAMA_3_TURNS
DATED = {"llama3.1": LLAMA_31.template, "clock": CLOCK, "clock, line break": "\n" + CLOCK, "given": GIVEN}


@pytest.mark.parametrize("template", DATED.values(), ids=DATED)
def test_the_date_is_the_same_every_day(template):
    encoder = family_encoder(replace(LLAMA_31, template=template))
    prompt = encoder.template.prompt(QUESTION)
    assert re.findall(r"\d\d \w{3} \d{4}|\d{4}-\d\d-\d\d", prompt) == [DATE]
    theirs = encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    (today,) = re.findall(r"\d\d \w{3} \d{4}|\d{4}-\d\d-\d\d", theirs)
    assert prompt == theirs.replace(today, DATE)


def test_of_several_templates_the_default_is_taken():
    tokenizer = family_tokenizer(GEMMA)
    tokenizer.chat_template = {"default": GEMMA.template, "tool_use": "nothing"}
    assert template_for("chat", tokenizer).prompt(QUESTION) == "".join(GEMMA.prompt)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "model.template: chat needs a chat template, and the tokenizer of NAME has none; set model.template to"),
        ({"tool_use": "x"}, "model.template: chat needs a chat template, and the tokenizer of NAME has none; set"),
        (
            "{{ bos_token }}{{ messages[0].content }}",
            "model.template: the chat template of NAME has no special token after an answer",
        ),
        (
            "{% for m in messages %}{{ m.content }}\n### {% endfor %}",
            "has no special token after an answer, but '\\n###",
        ),
        ("{{ raise_exception('no system message') }}", "of NAME fails on a single question (no system message); set"),
    ],
)
def test_a_tokenizer_whose_template_is_of_no_use_is_an_error(template, message):
    tokenizer = family_tokenizer(GEMMA)
    tokenizer.add_tokens(["###"])  # not a special one: it would be read as part of an answer
    tokenizer.chat_template = template
    with pytest.raises(ConfigError) as error:
        template_for("chat", tokenizer)
    assert message.replace("NAME", tokenizer.name_or_path) in str(error.value)
    assert "set model.template to llama2-chat or llama3-instruct or phi, or" in str(error.value)


def test_a_tokenizer_is_loaded_as_it_was_saved_and_pads_with_the_end_of_the_text(tmp_path):
    encoder = family_encoder(LLAMA_31)
    encoder.tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id
    again = Encoder(loaded, template_for("chat", loaded), 400)
    assert again.encode(QUESTION, ANSWER) == encoder.encode(QUESTION, ANSWER)


def test_a_tokenizer_without_an_end_of_the_text_is_an_error(tmp_path):
    tokenizer = family_tokenizer(GEMMA)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_tokenizer(str(tmp_path))
    remedy = f"the tokenizer of {tmp_path} has no end of text; set eos_token in its tokenizer_config.json"
    assert str(error.value) == remedy
    with pytest.raises(ConfigError) as error:
        load_tokenizer_of("base", ModelConfig(target=str(tmp_path)))
    assert str(error.value) == f"base: {remedy}"


CODE = """
from transformers import PreTrainedTokenizerFast
class Foreign(PreTrainedTokenizerFast):
    foreign = True
"""


def test_code_that_comes_with_a_tokenizer_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    family_tokenizer(GEMMA).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": [None, "foreign.Foreign"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "foreign.py").write_text(CODE)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "modules").exists()
    assert load_tokenizer(str(folder), trust_remote_code=True).foreign


def speaker(encoder, words):
    """A Llama that continues QUESTION's prompt with these tokens again and again: each calls for the next."""
    size = len(encoder.tokenizer)
    shape = {"hidden_size": size, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    shape |= {"head_dim": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape)).eval()
    start = encoder.generation_ids(QUESTION)[-1]
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for current, following in zip([start, *words], [*words, words[0]], strict=True):
            model.lm_head.weight[following, current] = 1.0
    return model


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_answer_stops_at_the_end_of_its_turn_and_at_eos(family):
    encoder = family_encoder(family)
    (word,) = text_ids(encoder.tokenizer, " Rome")[:1]
    said = encoder.tokenizer.decode([word])
    for stop in {family.end, family.eos}:
        stop_id = encoder.tokenizer.convert_tokens_to_ids(stop)
        model = speaker(encoder, [word, stop_id])
        assert generate(model, encoder, [QUESTION, QUESTION], batch_size=2) == [said] * 2
    room = replace(encoder, max_length=len(encoder.generation_ids(QUESTION)) + 3)
    assert generate(speaker(encoder, [word]), room, [QUESTION], batch_size=1) == [said * 3]


def test_the_published_templates_do_not_stop_at_an_end_of_turn():
    encoder = replace(family_encoder(GEMMA), template=template_for("llama2-chat", None))
    assert encoder.end_id == encoder.tokenizer.eos_token_id
    (word,) = text_ids(encoder.tokenizer, " Rome")[:1]
    room = replace(encoder, max_length=len(encoder.generation_ids(QUESTION)) + 4)
    model = speaker(room, [word, encoder.tokenizer.convert_tokens_to_ids("<end_of_turn>")])
    assert generate(model, room, [QUESTION], batch_size=1) == [encoder.tokenizer.decode([word]) * 2]


def test_a_tiny_model_has_no_chat_template_of_its_own(tmp_path):
    with pytest.raises(
        ConfigError, match="model.template chat .* but base is none; name a base, or set model.template"
    ):
        build_config(FinetuneConfig, None, ["scenario.name=authors", "model.template=chat"])
    assert build_config(FinetuneConfig, None, ["scenario.name=authors", "model.template=chat", "base=some/model"]).base
    sweep = load_config("quickstart", [f"storage={tmp_path}", "model.template=chat"])
    with pytest.raises(ConfigError, match="^model.template: the embedded model is made with llama2-chat, but got chat"):
        check(sweep)
