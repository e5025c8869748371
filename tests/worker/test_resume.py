"""Training that is cut off between two steps goes on to the same bits: every ZeRO stage, type, and adapters."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from toy import TRAIN, Case, case_model, toy_builder

from methods.method import build_method
from orchestrator.trial_config import LoraConfig, ZeroConfig
from orchestrator.worker.engine import DeepSpeedEngine, start_process_group
from orchestrator.worker.loop import train_steps
from orchestrator.worker.reference import ReferenceCache
from orchestrator.worker.resume import PreemptedError, TrainingPoints

CUT = 2
DECAYED = TRAIN.model_copy(update={"weight_decay": 0.5, "max_grad_norm": 0.5})
CASES = [
    *(Case("NPO+KL", stage=stage) for stage in range(4)),
    *(Case("GA+GD", stage=stage, dtype=torch.bfloat16) for stage in range(4)),
    *(Case("NPO+GD", stage=stage, lora=LoraConfig(dropout=0.3)) for stage in (0, 2, 3)),
    Case("GA+GD", train=DECAYED),
    Case("GA+GD", stage=3, train=DECAYED),
]


def run(case, folder, *, stop=None, cut=None):
    """Losses and weights of a rank, from step 0 or from the point that an earlier engine left."""
    builder, schedule = toy_builder(case)
    engine = DeepSpeedEngine(case_model(case), case.train, ZeroConfig(stage=case.stage))
    torch.manual_seed(case.seed * engine.world_size + engine.rank)
    reference = None
    if builder.method.needs_reference:
        reference = ReferenceCache().answers(None, engine, builder, schedule.steps)
    place = folder / f"rank{engine.rank}"
    place.mkdir(parents=True, exist_ok=True)
    points = TrainingPoints(0.0, lambda fill, step: fill(place), (place, cut) if cut else None)
    first = points.take_up(engine)
    losses = []
    for step in train_steps(engine, build_method(builder.method), builder, schedule, reference, first=first):
        losses.append((step.step, step.loss, step.forget_loss, step.grad_norm))
        if step.step + 1 == stop:
            points.save(engine, stop)
            engine.close()
            return losses, None
    return losses, {name: weight.detach().clone() for name, weight in engine.release().named_parameters()}


def one_rank(rank, folder):
    start_process_group(rank, 2, f"file://{folder}/store")
    torch.set_num_threads(1)
    found = {}
    for number, case in enumerate(CASES):
        place = folder / str(number)
        whole = run(case, place)
        cut, _ = run(case, place, stop=CUT)
        rest, weights = run(case, place, cut=CUT)
        found[case] = whole, (cut + rest, weights)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    mp.spawn(one_rank, args=(folder,), nprocs=2, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def name_of(case):
    more = [str(case.dtype).removeprefix("torch."), "adapters" if case.lora else "", "decayed" * (case.train != TRAIN)]
    return "-".join([case.method, f"zero{case.stage}", *filter(None, more)])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_training_goes_on_to_the_same_bits(case, runs):
    for rank in runs:
        (losses, weights), (again, resumed) = rank[case]
        assert [step for step, *_ in again] == list(range(len(losses))) and len(losses) > CUT + 1
        assert again == losses
        assert resumed.keys() == weights.keys()
        assert all(torch.equal(resumed[name], weights[name]) for name in weights)


class Clocks:
    """Stands for an engine whose other ranks' clocks are ahead."""

    def __init__(self, others):
        self.others = others

    def max_over_ranks(self, value):
        return max(value, self.others)


def test_points_are_after_epochs_or_when_the_time_of_any_rank_has_come(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("orchestrator.worker.resume.time.monotonic", lambda: now[0])
    written = []
    each_epoch = TrainingPoints(0.0, lambda fill, step: written.append(step))
    assert [each_epoch.after_step(Clocks(0), step, 3) for step in range(1, 7)] == [False, False, True] * 2
    timed = TrainingPoints(60.0, lambda fill, step: written.append(step), _last=1000.0)
    assert not timed.after_step(Clocks(0), 1, 3) and timed.after_step(Clocks(2), 1, 3)
    now[0] = 1060.0
    assert timed.after_step(Clocks(0), 2, 3)
    timed.save(None, 2)
    assert written == [2] and not timed.after_step(Clocks(0), 3, 3)


@pytest.mark.parametrize("every_seconds", [0.0, 60.0])
def test_when_a_machine_is_taken_away_the_state_is_saved_and_training_ends(monkeypatch, every_seconds):
    now, asked, written = [1000.0], [], []
    monkeypatch.setattr("orchestrator.worker.resume.time.monotonic", lambda: now[0])

    def is_leaving():
        asked.append(now[0])
        return now[0] >= 1010

    points = TrainingPoints(every_seconds, lambda fill, step: written.append(step), None, is_leaving, 1000.0, 1000.0)
    for second in range(1000, 1010):
        now[0] = float(second)
        assert not points.after_step(Clocks(0), 1, 3)
    assert asked == [1002, 1004, 1006, 1008]  # each question holds up all ranks
    assert not points.after_step(Clocks(1), 1, 3) and asked[-1] == 1009  # another rank wants to know
    now[0] = 1011.0
    assert points.after_step(Clocks(0), 2, 3)
    with pytest.raises(PreemptedError, match="after step 2"):
        points.save(None, 2)
    assert written == [2]
