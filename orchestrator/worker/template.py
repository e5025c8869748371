"""How a question is put to a model."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Template:
    """Tags around a question. `before_answer` is given to the model when it generates, but learned when it trains."""

    before_question: str
    after_question: str
    before_answer: str = ""

    def prompt(self, question: str) -> str:
        """The part of a row that carries no labels."""
        return self.before_question + question + self.after_question

    def text(self, question: str, answer: str) -> str:
        """A whole row."""
        return self.prompt(question) + self.before_answer + answer

    def generation_prompt(self, question: str) -> str:
        """What the model continues."""
        return self.prompt(question) + self.before_answer


TEMPLATES = {
    "llama2-chat": Template("[INST] ", " [/INST]"),
    "llama3-instruct": Template(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "phi": Template("Question: ", "\n", "Answer: "),
}


def template_for(name: str, tokenizer: Any) -> Template:
    """The template of a configured name for a model's tokenizer."""
    return TEMPLATES[name]


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder or hub name, padding with EOS."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import; the driver may not need it)

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
