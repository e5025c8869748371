from dataclasses import replace

import pytest
import torch
from toy import FORGET, toy_encoder, toy_model, toy_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from methods.outputs import FullLogits, HiddenStates
from orchestrator.trial_config import ModelConfig
from orchestrator.worker.batches import collate
from orchestrator.worker.generate import generate
from orchestrator.worker.model import _PLAIN_HEADS, Policy, compute_dtype, load_model, save_model
from orchestrator.worker.template import load_tokenizer

CPU = torch.device("cpu")
ROWS = [toy_encoder().encode(row.question, row.answer) for row in FORGET[:3]]
TOKENS = collate(ROWS, pad_id=toy_tokenizer().eos_token_id)
SHAPE = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 16, "pad_token_id": 0}


# gpt2 is not listed as plain, gemma2 caps its logits.
@pytest.mark.parametrize("family", sorted(_PLAIN_HEADS | {"gpt2", "gemma2"}))
def test_hidden_states_and_head_are_the_models_logits(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE)).eval()
        with torch.no_grad():  # logits of tens, so that a cap or a scale would show
            for parameter in model.parameters():
                parameter.normal_(0, 3)
    outputs = Policy(model).outputs(TOKENS)
    assert type(outputs) is (HiddenStates if family in _PLAIN_HEADS else FullLogits)
    where = TOKENS.attention_mask.bool()
    expected = model(input_ids=TOKENS.input_ids, attention_mask=TOKENS.attention_mask).logits[where]
    assert expected.abs().max() > 20
    torch.testing.assert_close(outputs.logits(where), expected)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_the_dtype_of_a_device(name, device, expected):
    assert compute_dtype(name, torch.device(device)) is expected


def test_a_saved_model_is_loaded_as_it_was(tmp_path):
    model, question = toy_model(), "Where was Ada born?"
    before = generate(model.eval(), toy_encoder(), [question], batch_size=1)
    save_model(model, toy_tokenizer(), tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = load_model(ModelConfig(target=str(tmp_path)), CPU)
    assert loaded.training
    expected = dict(model.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, expected[name])
    tokenizer = load_tokenizer(str(tmp_path))
    encoder = replace(toy_encoder(), tokenizer=tokenizer)
    assert encoder.generation_ids(question) == toy_encoder().generation_ids(question)
    assert generate(loaded.eval(), encoder, [question], batch_size=1) == before


def test_gathered_weights_make_the_model_that_was_loaded(tmp_path):
    """In bfloat16 too, where rotary frequencies must stay float32."""
    from orchestrator.worker.engine import model_with_weights

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    state = {name: parameter.detach().clone() for name, parameter in loaded.named_parameters()}
    rebuilt = model_with_weights(loaded, state).eval()
    ids = torch.arange(40)[None]
    assert {b.dtype for b in rebuilt.buffers()} == {b.dtype for b in loaded.buffers()} == {torch.float32}
    assert torch.equal(rebuilt(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_decoding_is_greedy_whatever_the_model_folder_says():
    model = toy_model().eval()
    plain = generate(model, toy_encoder(), ["Who wrote it?"], batch_size=1)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 2
    assert generate(model, toy_encoder(), ["Who wrote it?"], batch_size=1) == plain
    assert model.generation_config.repetition_penalty == 5.0
