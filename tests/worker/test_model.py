import json
from dataclasses import replace

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from toy import FORGET, logits_at, toy_encoder, toy_model, toy_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from methods.outputs import FullLogits, HiddenStates
from orchestrator.trial_config import LoraConfig, ModelConfig
from orchestrator.worker.batches import collate
from orchestrator.worker.generate import generate
from orchestrator.worker.model import (
    _PLAIN_HEADS,
    Merge,
    Policy,
    compute_dtype,
    export_merged,
    has_adapters,
    load_model,
    save_model,
    weights_digest,
)
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
    outputs = Policy(model).predict(TOKENS)
    assert type(outputs) is (HiddenStates if family in _PLAIN_HEADS else FullLogits)
    where = TOKENS.attention_mask.bool()
    expected = model(input_ids=TOKENS.input_ids, attention_mask=TOKENS.attention_mask).logits[where]
    assert expected.abs().max() > 20
    torch.testing.assert_close(logits_at(outputs, where), expected)


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


def test_the_digest_of_weights_depends_on_their_values_and_not_on_their_files(tmp_path):
    model = toy_model()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    whole, parts = (load_model(ModelConfig(target=str(tmp_path / name)), CPU) for name in ("whole", "parts"))
    found = weights_digest(whole)
    assert len(found) == 64 and weights_digest(parts) == found
    for parameter in (next(parts.parameters()), list(parts.parameters())[-1]):
        with torch.no_grad():
            kept = parameter.view(-1)[-1].clone()
            parameter.view(-1)[-1] = torch.nextafter(kept, kept + 1)
        assert weights_digest(parts) != found
        with torch.no_grad():
            parameter.view(-1)[-1] = kept
    assert weights_digest(parts) == found
    half = load_model(ModelConfig(target=str(tmp_path / "whole"), dtype="bfloat16"), CPU)
    assert len(weights_digest(half)) == 64 and weights_digest(half) != found


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


# Names of linear layers differ; embeddings are tied or not; phi's head has a bias; gpt2 has Conv1D and no plain head.
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "llama-untied": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "gemma": {},
    "phi": {},
    "gpt2": {},
}
LINEAR = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
}
LORA = LoraConfig(r=2, alpha=6, dropout=0.2)


def base_model(folder, family="llama", dtype=torch.float32):
    """A folder with a model of some family, its weights large enough to make logits of about one."""
    name = family.removesuffix("-untied")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **(SHAPE | {"hidden_size": 64, "head_dim": 32} | FAMILIES[family]))
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.2)
    save_model(model.to(dtype), toy_tokenizer(), folder)
    return folder


def target(folder, **changes):
    return ModelConfig(target=str(folder), **changes)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS.input_ids, attention_mask=TOKENS.attention_mask).logits


def trained_adapters(base, folder, lora=LORA, seed=1):
    """A folder with adapters that do something, and their model."""
    model = load_model(target(base), CPU, lora)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    save_model(model, toy_tokenizer(), folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_are_on_every_linear_layer_but_the_head_and_add_nothing(family, tmp_path):
    folder = base_model(tmp_path, family)
    plain, model = load_model(target(folder), CPU), load_model(target(folder), CPU, LORA)
    assert model.training
    assert torch.equal(logits(model), logits(plain))
    adapted = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == LINEAR.get(family, LINEAR["llama"])
    inner = model.get_base_model()
    assert not isinstance(inner.get_input_embeddings(), LoraLayer)
    assert not isinstance(inner.get_output_embeddings(), LoraLayer)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_see_adapters_through_hidden_states_and_head(family, tmp_path):
    model = trained_adapters(base_model(tmp_path / "base", family), tmp_path / "adapters").eval()
    outputs = Policy(model).predict(TOKENS)
    assert type(outputs) is (FullLogits if family == "gpt2" else HiddenStates)
    where = TOKENS.attention_mask.bool()
    torch.testing.assert_close(logits_at(outputs, where), logits(model)[where])
    assert (logits(model) - logits(load_model(target(tmp_path / "base"), CPU))).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_saved_alone_and_loaded_merged_or_as_they_were(family, tmp_path):
    base, folder = base_model(tmp_path / "base", family), tmp_path / "adapters"
    model = trained_adapters(base, folder)
    merged, again = load_model(target(folder), CPU), load_model(target(folder), CPU, LORA)
    assert type(merged) is type(load_model(target(base), CPU))
    assert not any(isinstance(module, LoraLayer) for module in merged.modules())
    assert merged.training
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(again), logits(model))
    for (name, ours), (_, theirs) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad is theirs.requires_grad is ("lora_" in name)


def test_a_folder_of_adapters_is_small_holds_no_pickle_and_names_its_base(tmp_path, monkeypatch):
    base, folder = base_model(tmp_path / "base"), tmp_path / "adapters"
    monkeypatch.chdir(tmp_path)
    relative = target(base).model_copy(update={"target": "base"})  # not made absolute by the configuration
    model = load_model(relative, CPU, LoraConfig(r=1, alpha=6, target_modules=("q_proj", "v_proj")))
    save_model(model, toy_tokenizer(), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (1, 6, ["q_proj", "v_proj"])
    files = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".md")) or name[:5] == "model"]
    weights = load_file(folder / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == 2 * (64 + 64)
    assert (folder / "adapter_model.safetensors").stat().st_size * 50 < (base / "model.safetensors").stat().st_size
    monkeypatch.chdir("/")
    assert torch.equal(logits(load_model(target(folder), CPU)), logits(model))


def test_adapters_go_on_from_a_folder_to_the_next_and_still_name_the_base(tmp_path):
    base = base_model(tmp_path / "base")
    trained_adapters(base, tmp_path / "first")
    model = load_model(target(tmp_path / "first"), CPU, LoraConfig(r=2, alpha=6, dropout=0.4))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} >= {0.4}
    save_model(model, toy_tokenizer(), tmp_path / "second")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        first, second = tmp_path / "first" / name, tmp_path / "second" / name
        if name.endswith("json"):
            settings = json.loads(second.read_text())
            assert settings["base_model_name_or_path"] == str(base)
            assert settings["lora_dropout"] == 0.4
        else:
            assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_is_a_plain_model_that_says_the_same(family, tmp_path):
    model = trained_adapters(base_model(tmp_path / "base", family), tmp_path / "adapters")
    export_merged(tmp_path / "adapters", tmp_path / "out")
    assert not list((tmp_path / "out").glob("adapter*"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert exported.config.use_cache
    torch.testing.assert_close(logits(exported), logits(model), rtol=1e-5, atol=1e-5)
    prompt = "[INST] Where was Ada born? [/INST]"
    assert load_tokenizer(str(tmp_path / "out"))(prompt)["input_ids"] == toy_tokenizer()(prompt)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_has_the_bases_type_and_is_rounded_once(family, tmp_path):
    base = base_model(tmp_path / "base", family, torch.bfloat16)
    trained_adapters(base, tmp_path / "adapters")
    merge = export_merged(tmp_path / "adapters", tmp_path / "out")
    exported = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "out").named_parameters())
    before = dict(load_model(target(base), CPU).named_parameters())
    lost = added = 0.0
    for name, exact in load_model(target(tmp_path / "adapters"), CPU).named_parameters():
        assert exact.dtype is torch.float32
        assert exported[name].dtype is torch.bfloat16
        assert torch.equal(exported[name], exact.bfloat16())
        last = name.split(".")[-2]
        assert torch.equal(exact, before[name]) is (last not in LINEAR.get(family, LINEAR["llama"]) or "bias" in name)
        lost += float((exported[name] - exact).square().sum())
        added += float((exact - before[name]).square().sum())
    assert merge.dtype == "bfloat16"
    assert merge.rounding == pytest.approx((lost / added) ** 0.5, rel=1e-3) and 1e-4 < merge.rounding < 0.1


def test_an_export_in_float32_loses_nothing(tmp_path):
    trained_adapters(base_model(tmp_path / "base"), tmp_path / "adapters")
    assert export_merged(tmp_path / "adapters", tmp_path / "out") == Merge("float32", 0.0)


def test_adapters_answer_as_their_export_does(tmp_path):
    save_model(toy_model(), toy_tokenizer(), tmp_path / "base")
    model = trained_adapters(tmp_path / "base", tmp_path / "adapters").eval()
    export_merged(tmp_path / "adapters", tmp_path / "out")
    questions = ["Where was Ada born?", "Who?"]
    answers = generate(model, toy_encoder(), questions, batch_size=2)
    assert generate(load_model(target(tmp_path / "out"), CPU).eval(), toy_encoder(), questions, batch_size=2) == answers
    assert generate(toy_model().eval(), toy_encoder(), questions, batch_size=2) != answers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_have_the_type_of_their_model(dtype, tmp_path):
    base, expected = base_model(tmp_path / "base"), getattr(torch, dtype)
    trained_adapters(base, tmp_path / "adapters")
    for folder in (base, tmp_path / "adapters"):
        model = load_model(target(folder, dtype=dtype), CPU, LORA)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}


def edited(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_base_model_that_is_not_there_is_an_error_that_names_both_folders(tmp_path):
    base, folder = base_model(tmp_path / "base"), tmp_path / "adapters"
    trained_adapters(base, folder)
    base.rename(tmp_path / "moved")
    for use in (lambda: load_model(target(folder), CPU), lambda: export_merged(folder, tmp_path / "out")):
        with pytest.raises(ValueError, match="where no model is") as caught:
            use()
        assert str(base) in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["base", "./base", "../base"])
def test_a_relative_base_model_is_an_error(name, tmp_path, monkeypatch):
    folder = tmp_path / "adapters"
    trained_adapters(base_model(tmp_path / "base"), folder)
    edited(folder, base_model_name_or_path=name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{folder}/adapter_config.json is '{name}', a relative path"):
        load_model(target(folder), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "write the folder"),
        ({"base_model_name_or_path": ""}, "write the folder"),
        ({"peft_type": "IA3"}, "only LORA is supported"),
        ({"r": 4}, r"\(2, 6.0\), but \(4, 6.0\)"),
        ({"lora_alpha": 8}, r"\(2, 6.0\), but \(2, 8.0\)"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(changes, message, tmp_path):
    trained_adapters(base_model(tmp_path / "base"), tmp_path / "adapters")
    edited(tmp_path / "adapters", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(target(tmp_path / "adapters"), CPU, LORA)
    assert str(tmp_path / "adapters") in str(caught.value)


def test_adapters_on_a_model_with_adapters_are_refused(tmp_path):
    base = base_model(tmp_path / "base")
    for folder in (tmp_path / "one", tmp_path / "two"):
        trained_adapters(base, folder)
    for file in (tmp_path / "one").glob("adapter*"):
        file.rename(base / file.name)
    with pytest.raises(ValueError, match=f"{base} has adapters itself"):
        load_model(target(tmp_path / "two"), CPU)


def test_adapters_go_on_only_on_the_layers_that_are_asked_for(tmp_path):
    base, folder = base_model(tmp_path / "base"), tmp_path / "adapters"
    narrow = LoraConfig(r=2, alpha=6, target_modules=("q_proj", "v_proj"))
    trained_adapters(base, folder, narrow)
    load_model(target(folder), CPU, narrow)
    for asked in (LORA, narrow.model_copy(update={"target_modules": ("q_proj",)})):
        with pytest.raises(ValueError, match="lora.target_modules are other layers than those with adapters"):
            load_model(target(folder), CPU, asked)


def test_adapters_on_the_head_are_refused(tmp_path):
    model = load_model(target(base_model(tmp_path / "base")), CPU)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]))
    save_model(wrapped, toy_tokenizer(), tmp_path / "adapters")
    with pytest.raises(ValueError, match="on embeddings or on the output head"):
        load_model(target(tmp_path / "adapters"), CPU)


def test_pickled_adapters_are_not_read(tmp_path):
    folder = tmp_path / "adapters"
    trained_adapters(base_model(tmp_path / "base"), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    for lora in (None, LORA):
        with pytest.raises(ValueError, match=r"not adapter_model\.safetensors"):
            load_model(target(folder), CPU, lora)
    with pytest.raises(ValueError, match="has no adapters"):
        export_merged(tmp_path / "base", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("q_prjo", "called 'q_prjo'; use down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj$"),
        ("proj", "called 'proj'"),
        ("embed_tokens", "called 'embed_tokens'"),
        ("lm_head", "called 'lm_head'"),
    ],
)
def test_target_modules_must_be_linear_layers_and_not_the_head(name, message, tmp_path):
    with pytest.raises(ValueError, match=rf"lora\.target_modules: .*{message}"):
        load_model(target(base_model(tmp_path)), CPU, LoraConfig(target_modules=("q_proj", name)))


REMOTE_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(r"{marker}").touch()

class OddConfig(LlamaConfig):
    model_type = "odd"

class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


REMOTE_TOKENIZER = """
from transformers import PreTrainedTokenizerFast

class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""


def test_code_that_comes_with_a_model_runs_only_if_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    base, marker = base_model(tmp_path / "base", "llama-untied"), tmp_path / "ran"
    settings = json.loads((base / "config.json").read_text())
    code = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (base / "config.json").write_text(json.dumps(settings | {"model_type": "odd", "auto_map": code}))
    (base / "odd.py").write_text(REMOTE_CODE.format(marker=marker))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(target(base), CPU, LORA)
    assert not marker.exists()
    model = load_model(target(base, trust_remote_code=True), CPU, LORA)
    assert marker.exists()
    assert type(model.get_base_model()).__name__ == "OddForCausalLM"
    assert has_adapters(model)
    save_model(model, toy_tokenizer(), tmp_path / "adapters")
    own_tokenizer = tmp_path / "adapters" / "tokenizer_config.json"
    code = {"tokenizer_class": "OddTokenizer", "auto_map": {"AutoTokenizer": [None, "odd_tokenizer.OddTokenizer"]}}
    own_tokenizer.write_text(json.dumps(json.loads(own_tokenizer.read_text()) | code))
    (tmp_path / "adapters" / "odd_tokenizer.py").write_text(REMOTE_TOKENIZER)
    marker.unlink()
    with pytest.raises(ValueError, match="trust_remote_code"):
        export_merged(tmp_path / "adapters", tmp_path / "out")
    assert not marker.exists()
    export_merged(tmp_path / "adapters", tmp_path / "out", trust_remote_code=True)
    assert "OddTokenizer" in (tmp_path / "out" / "tokenizer_config.json").read_text()
