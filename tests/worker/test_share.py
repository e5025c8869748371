import json
import os
from dataclasses import asdict

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_score import NLI, SETS, classifier
from toy import toy_encoder, toy_model

from orchestrator.base_config import EMBEDDED
from orchestrator.trial_config import EvaluationConfig
from orchestrator.worker.engine import start_process_group
from orchestrator.worker.judges import Judges
from orchestrator.worker.score import all_questions, score_questions
from orchestrator.worker.share import gathered, rank_and_size, shared

PIECES = [f"piece {number}" for number in range(7)]
QUESTIONS = tuple(all_questions(SETS))
CONFIG = EvaluationConfig(max_length=60, batch_size=3, encoder=EMBEDDED)


def scores(judge, questions=QUESTIONS):
    model, judges = toy_model(seed=3), Judges(EMBEDDED, judge, device=torch.device("cpu"))
    first = [asdict(one) for one in score_questions(model, toy_encoder(60), questions, CONFIG, judges)]
    again = [asdict(one) for one in score_questions(model, toy_encoder(60), questions, CONFIG, judges)]
    assert again == first  # what a judge remembers changes nothing
    return first


def one_rank(rank, folder):
    """Writes what this rank got of several rounds of work, and who did it."""
    start_process_group(rank, 2, f"file://{folder}/store")
    store = dist.PrefixStore("test", dist.distributed_c10d._get_default_store())
    found = {"rounds": [], "done": []}

    def work(piece):
        """Rank 1 is busy with its first piece until rank 0 has done all others."""
        found["done"].append(piece)
        if rank == 1:
            store.set("rank 1 has begun", "yes")
            store.wait(["rank 0 has done the others"])
        elif len(found["done"]) == 1:
            store.wait(["rank 1 has begun"])
        elif len(found["done"]) == len(PIECES) - 1:
            store.set("rank 0 has done the others", "yes")
        return piece.upper(), rank

    found["rounds"].append(shared(PIECES, work))
    found["rounds"].append(shared(PIECES[:3], lambda piece: (piece.upper(), 0)))
    found["rounds"].append(shared([], work))
    found["gathered"] = sorted(gathered({rank: f"from {rank}", rank + 2: "more"}).items())
    found["who"] = rank_and_size()
    torch.set_num_threads(1)
    found["one question"] = len(scores(f"{folder}/judge", QUESTIONS[:1]))
    found["scores"] = scores(f"{folder}/judge")
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_late_rank_does_less_and_all_know_everything(tmp_path):
    classifier(tmp_path / "judge", NLI)
    mp.spawn(one_rank, args=(tmp_path,), nprocs=2, join=True)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    first, second, empty = ranks[0]["rounds"]
    assert [text for text, _ in first] == [piece.upper() for piece in PIECES]
    assert [len(rank["done"]) for rank in ranks] == [6, 1]
    assert [text for text, _ in second] == ["PIECE 0", "PIECE 1", "PIECE 2"] and empty == []
    assert ranks[1]["rounds"] == ranks[0]["rounds"]
    assert ranks[0]["gathered"] == [[0, "from 0"], [1, "from 1"], [2, "more"], [3, "more"]] == ranks[1]["gathered"]
    assert [rank["one question"] for rank in ranks] == [1, 1]  # one rank has nothing to answer
    assert [rank["who"] for rank in ranks] == [[0, 2], [1, 2]]
    # The likelihoods of two ranks are those of one to the last bit: their passes are the same. So are the judges'.
    alone = json.loads(json.dumps(scores(str(tmp_path / "judge"))))
    assert ranks[0]["scores"] == ranks[1]["scores"]
    assert len({one["generation"] for one in alone}) > 10
    assert ranks[0]["scores"] == alone


def test_alone_there_is_nothing_to_share():
    assert shared(PIECES, lambda piece: (piece, os.getpid())) == [(piece, os.getpid()) for piece in PIECES]
    assert gathered({3: "c"}) == {3: "c"}
    assert rank_and_size() == (0, 1)
