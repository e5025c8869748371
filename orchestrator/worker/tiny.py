"""A small Llama and its tokenizer, made from nothing: for demos and tests without a hub."""

from collections.abc import Sequence
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from orchestrator.scenarios.base import QARow
from orchestrator.trial_config import TinyModel
from orchestrator.worker.template import TEMPLATES


def train_tokenizer(rows: Sequence[QARow], template: str, vocab_size: int) -> Any:
    """A byte-level BPE tokenizer that has seen the rows in their template; it puts BOS first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # Punctuation by itself, so that the end of a prompt never merges with an answer that begins with a quotation mark.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [TEMPLATES[template].text(row.question, text) for row in rows for text in _texts(row)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_llama(shape: TinyModel, tokenizer: Any, *, max_positions: int) -> Any:
    """A Llama with random weights (torch's global generator), embeddings tied, float32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def _texts(row: QARow) -> list[str]:
    return [text for text in (row.answer, row.paraphrased_answer) if text]
