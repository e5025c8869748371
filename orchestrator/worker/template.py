"""How a question is put to a model, and where its answer ends."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jinja2 import TemplateError

from orchestrator.load_config import ConfigError

# Llama 3.x tells the model the date, and a result must not depend on the day: its template's own date without a clock.
DATE = "26 Jul 2024"
# Variables of chat templates: the date, and no chain of thought (Qwen 3) in what is scored as an answer.
_VARIABLES = {"date_string": DATE, "enable_thinking": False}
# Templates that read the clock themselves get the same day. The empty expression keeps a line break that may follow.
_STOPPED_CLOCK = "{% macro strftime_now(format) %}" + DATE + '{% endmacro %}{{ "" }}'


@dataclass(frozen=True, slots=True)
class Tags:
    """Fixed tags around a question; an answer ends with EOS.

    `before_answer` is given to the model when it generates, but learned when it trains.
    """

    before_question: str
    after_question: str
    before_answer: str = ""
    adds_special_tokens: ClassVar[bool] = True  # BOS comes from the tokenizer

    def prompt(self, question: str) -> str:
        """The part of a row that carries no labels."""
        return self.before_question + question + self.after_question

    def text(self, question: str, answer: str) -> str:
        """A whole row."""
        return self.prompt(question) + self.before_answer + answer

    def generation_prompt(self, question: str) -> str:
        """What the model continues."""
        return self.prompt(question) + self.before_answer

    def end_id(self, tokenizer: Any) -> int:
        """The token that ends an answer."""
        return int(tokenizer.eos_token_id)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The tokenizer's own chat template around a question; the answer follows as it is, whatever the template trims."""

    tokenizer: Any
    source: str
    end_of_turn: int
    adds_special_tokens: bool  # no where the template writes BOS itself

    def prompt(self, question: str) -> str:
        """The part of a row that carries no labels: all up to the assistant's first word."""
        return _render(self.tokenizer, self.source, question)

    def text(self, question: str, answer: str) -> str:
        """A whole row without its end of turn."""
        return self.prompt(question) + answer

    def generation_prompt(self, question: str) -> str:
        """What the model continues."""
        return self.prompt(question)

    def end_id(self, tokenizer: Any) -> int:
        """The token that ends an answer."""
        return self.end_of_turn


Template = Tags | ChatTemplate

TEMPLATES = {
    "llama2-chat": Tags("[INST] ", " [/INST]"),
    "llama3-instruct": Tags(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "phi": Tags("Question: ", "\n", "Answer: "),
}


def template_for(name: str, tokenizer: Any) -> Template:
    """The template of a configured name for a model's tokenizer.

    ConfigError: `chat`, but the tokenizer has no chat template, or one that does not say where an answer ends.
    """
    return _chat_template(tokenizer) if name == "chat" else TEMPLATES[name]


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder or hub name, padding with EOS. ConfigError: it has no EOS."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import; the driver may not need it)

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token is None:
        raise ConfigError(f"the tokenizer of {path} has no end of text; set eos_token in its tokenizer_config.json")
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _chat_template(tokenizer: Any) -> ChatTemplate:
    try:
        source = _STOPPED_CLOCK + tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigError(
            f"model.template: chat needs a chat template, and the tokenizer of {tokenizer.name_or_path} has none; "
            f"set model.template to {' or '.join(TEMPLATES)}, or save a chat template with the tokenizer"
        ) from error
    ids = tokenizer(_render(tokenizer, source, "Who?"), add_special_tokens=False)["input_ids"]
    has_bos = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return ChatTemplate(tokenizer, source, _end_of_turn(tokenizer, source), adds_special_tokens=not has_bos)


def _end_of_turn(tokenizer: Any, source: str) -> int:
    """The first special token after an assistant's message."""
    answer = "It is answered"  # any words that no template has
    _, found, after = _render(tokenizer, source, "Who?", answer).rpartition(answer)
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(after, add_special_tokens=False)["input_ids"] if found else ():
        if token in added and added[token].special:
            return int(token)
    raise ConfigError(
        f"model.template: the chat template of {tokenizer.name_or_path} has no special token after an answer, but "
        f"{after!r}; set model.template to {' or '.join(TEMPLATES)}, or make the end of turn a special token"
    )


def _render(tokenizer: Any, source: str, question: str, answer: str | None = None) -> str:
    """A conversation as text; without an answer it ends where the assistant begins."""
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        rendered: str = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=answer is None, **_VARIABLES
        )
    except TemplateError as error:
        raise ConfigError(
            f"model.template: the chat template of {tokenizer.name_or_path} fails on a single question ({error}); "
            f"set model.template to {' or '.join(TEMPLATES)}, or save another chat template with the tokenizer"
        ) from error
    return rendered
