"""Winners are loaded out of a real registry with one line, and answer as transformers alone would have them."""

import mlflow
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator import sync
from orchestrator.config import SweepConfig
from orchestrator.scenario_config import AuthorsScenario
from orchestrator.scenarios.base import DataError
from orchestrator.scenarios.load import load_training_rows
from orchestrator.storage import join, open_storage
from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    Journal,
    ObjectiveRecord,
    SweepStarted,
    TrialFinished,
    TrialStarted,
)
from orchestrator.trial_config import LoraConfig, ModelConfig
from orchestrator.worker.model import add_adapters, load_model, save_model
from tests.ray.servers import MlflowServer
from tests.ray.tiny import make_models
from tests.stores import new_bucket, s3_server

pytestmark = pytest.mark.ray
KEY = "GA/forget10/t000"
CHECKPOINT = f"trials/{KEY}/model"
QUESTIONS = [row.question for row in load_training_rows(AuthorsScenario(num_authors=10), None)[:3]]
MAX_LENGTH = 80
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A model with random weights."""
    return make_models(tmp_path_factory.mktemp("models")) / "target"


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    made = MlflowServer(tmp_path / "server")
    made.start()
    yield made.url
    made.stop()


@pytest.fixture(autouse=True)
def _own_copies(monkeypatch, tmp_path):
    monkeypatch.setenv("LETHE_COPIES", str(tmp_path / "copies"))
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def write_sweep(root, target, *, adapters=False):
    """A sweep at a place, with one trial whose weights are kept: other random ones than the target's."""
    place = join(root, "mine-20260101-120000")
    storage = open_storage(place)
    model, tokenizer = load_model(ModelConfig(target=str(target)), CPU), AutoTokenizer.from_pretrained(target)
    torch.manual_seed(5)
    if adapters:
        model = add_adapters(model, LoraConfig())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    storage.put(CHECKPOINT, lambda draft: save_model(model, tokenizer, draft))
    config = {"model": {"target": str(target)}, "evaluation": {"max_length": MAX_LENGTH, "batch_size": 2}}
    values = {"name": "mine", "scenario": {"name": "authors"}, "methods": ["GA"], "forget_sets": ["forget10"]}
    sweep = SweepConfig.model_validate({**values, "model": config["model"], "storage": root})
    objectives = ("model_utility", "forget_efficacy")
    header = SweepStarted(
        name="mine", seed=1, config=sweep.model_dump(mode="json"), lookahead=1, versions={}, command="",
        cells=(CellRecord(name="GA/forget10", method="GA", forget_set="forget10", num_trials=1),),
        objectives=tuple(ObjectiveRecord(metric=name, direction="maximize", worst=0.0) for name in objectives),
    )  # fmt: skip
    scores = dict.fromkeys(objectives, 0.5)
    journal = Journal(storage.local / "journal")
    journal.append(header)
    journal.append(TrialStarted(key=KEY, method="GA", forget_set="forget10", number=0, params={}, config=config))
    journal.append(
        TrialFinished(key=KEY, state="COMPLETE", metrics=scores, objectives=(0.5, 0.5), checkpoint=CHECKPOINT)
    )
    journal.close()
    storage.publish("journal")
    return place


def plain_answers(weights, target):
    """What transformers' own greedy decoding says."""
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    answers = []
    for question in QUESTIONS:
        ids = tokenizer(f"[INST] {question} [/INST]", return_tensors="pt").input_ids
        out = model.generate(ids, max_length=MAX_LENGTH, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def register(place, uri, capsys):
    """What sync says; the line that loads the model is in it."""
    assert sync.main([place, "--tracking-uri", uri]) == 0
    out = capsys.readouterr().out
    line = 'mlflow.pyfunc.load_model("models:/mine-20260101-120000-forget10@pareto-knee")'
    assert f"Load {line}" in out
    return line


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("registry", ["sqlite", "server"])
def test_one_line_loads_a_winner_that_answers(registry, adapters, target, tmp_path, capsys, request):
    uri = request.getfixturevalue(registry)
    place = write_sweep(str(tmp_path / "lethe"), target, adapters=adapters)
    line = register(place, uri, capsys)
    register(place, uri, capsys)
    mlflow.set_tracking_uri(uri)
    (version,) = mlflow.MlflowClient().search_model_versions()
    assert version.version in ("1", 1)  # the second time it was found again
    model = eval(line)
    expected = plain_answers(f"{place}/{CHECKPOINT}", target)
    assert model.predict(QUESTIONS) == expected
    assert expected != plain_answers(target, target)
    assert model.predict(QUESTIONS[0]) == expected[:1]
    with pytest.raises(DataError, match="no room for an answer"):
        model.predict(["why " * MAX_LENGTH])
    raw = model.get_raw_model()
    assert type(raw).__name__ == "LlamaForCausalLM" and not hasattr(raw, "peft_config")


def test_weights_in_a_store_are_loaded_from_there(server, target, capsys):
    with s3_server() as ending:
        place = write_sweep(new_bucket(ending), target)
        line = register(place, server, capsys)
        mlflow.set_tracking_uri(server)
        expected = eval(line).predict(QUESTIONS)
        assert expected == plain_answers(open_storage(place).fetch(CHECKPOINT), target)


def test_weights_that_are_gone_are_named(sqlite, target, tmp_path, capsys):
    place = write_sweep(str(tmp_path / "lethe"), target)
    line = register(place, sqlite, capsys)
    mlflow.set_tracking_uri(sqlite)
    storage = open_storage(place)
    storage.remove(CHECKPOINT)
    with pytest.raises(FileNotFoundError, match=f"{CHECKPOINT} of {place} is not there: .* orchestrator.sync {place}"):
        eval(line)
    journal = Journal(storage.local / "journal")
    journal.append(CheckpointDeleted(key=KEY))
    journal.close()
    assert sync.main([place, "--tracking-uri", sqlite]) == 0
    assert "Load" not in capsys.readouterr().out
    with pytest.raises(mlflow.MlflowException, match="alias pareto-knee not found"):
        eval(line)
