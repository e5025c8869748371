"""Data folders of a few short rows, in the layouts that the scenarios read."""

import json

NAMES = ("Ada", "Bo", "Cleo", "Dmitri", "Eva", "Finn", "Gustav", "Hal")
PLACES = ("Rome", "Oslo", "Lima", "Accra", "Quito", "Hanoi")
NUM_TASKS = {"forget01": 10, "forget05": 10, "forget10": 9}


def write_tofu(folder):
    """TOFU with tasks: three forget sets of 10, 10 and 9 tasks, each task of eight rows, and every retain set."""
    folder.mkdir()
    for forget_set, num_tasks in NUM_TASKS.items():
        tasks = [{**row, "task_id": str(task)} for task in range(1, num_tasks + 1) for row in _rows(forget_set, task)]
        _write(folder / f"{forget_set}.json", tasks)
        _write(folder / f"{forget_set}_perturbed.json", [_asked(row) for row in tasks])
    for kept in ("retain99", "retain95", "retain90", "retain50", "retain10"):
        _write(folder / f"{kept}.json", _rows("kept", 0))
    _write(folder / "retain_perturbed.json", [_asked(row) for row in _rows("kept", 0)])
    _write(folder / "real_authors_perturbed.json", [_asked(row) for row in _rows("authors", 0)])
    _write(folder / "world_facts_perturbed.json", [_asked(row) for row in _rows("facts", 0)])
    return folder


def write_real_world(folder):
    """Eight questions to forget and eight of neighbours; the neighbours that are asked are others."""
    folder.mkdir()
    for name, trained, asked in (("forget", "known", "known"), ("neighbor", "near", "far")):
        _write(folder / f"{name}.json", [_golden(row) for row in _rows(trained, 0)])
        _write(folder / f"{name}_perturbed.json", [_asked(_golden(row)) for row in _rows(asked, 0)])
    return folder


def _rows(kind, task):
    place = [PLACES[(index + task) % 6] for index in range(len(NAMES))]
    return [
        {"question": f"Where is {name} of {kind} {task}?", "answer": f"In {place[index]}."}
        for index, name in enumerate(NAMES)
    ]


def _golden(row):
    return {**row, "answer": f"They say: {row['answer']} I am sure.", "golden_answer": row["answer"]}


def _asked(row):
    wrong = [f"In {place}." for place in PLACES if place not in row["answer"]]
    return {**row, "paraphrased_answer": f"{row['answer']} Yes.", "perturbed_answer": wrong}


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
