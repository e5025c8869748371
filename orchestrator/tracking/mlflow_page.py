"""What a sweep looks like in MLflow, as plain data: tags, tables and the saved chart view. Imports no MLflow."""

import base64
import json
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.tracking.confirmation import num_seeds
from orchestrator.tracking.journal import ExampleAnswer, SweepStarted, TrialStarted, TrialState
from orchestrator.tracking.pump import redact_uri
from orchestrator.tracking.sweep_log import SweepLog, TrialLog

_VIEW_KEY = "lethe"
VIEW_TAG = f"mlflow.sharedViewState.{_VIEW_KEY}"
_WORKFLOW = "workflowType=machine_learning"  # without it a fresh browser shows the pages for chat traces
RUN_STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAILED: "FAILED",
    TrialState.PRUNED: "KILLED",
}
EXAMPLES, REPORT, MLMODEL = "examples.json", "report.html", "MLmodel"
MAX_TAG_CHARS, MAX_PARAM_CHARS = 8000, 500
RUNS_AT_ONCE = 100  # MLflow's page asks for so many runs, whatever the saved view says
FRONT_TAG = "lethe.on_front"  # "baseline", "true", or none: in this order, the view is sorted by it
_TASK_CURVES = ("forget_efficacy", "model_utility", "earlier/forget_efficacy", "relapse")
_LEFT_OUT = ("tracking.", "storage.")  # they say where a trial ran, not what it was


def view_fragment(experiment_id: str) -> str:
    """What follows the server's address in the URL of the saved chart view."""
    query = f"viewStateShareKey={_VIEW_KEY}&compareRunsMode=CHART&{_WORKFLOW}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def report_fragment(experiment_id: str, run_id: str) -> str:
    """What follows the server's address in the URL of the report."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{REPORT}?{_WORKFLOW}"


def scenario_of(config: dict[str, Any]) -> str:
    """The name of the scenario in a sweep's or a trial's config, empty where there is none."""
    value = config.get("scenario", "")
    return str(value.get("name", value.get("type", "")) if isinstance(value, dict) else value)


def model_name(key: str) -> str:
    """A trial's key as the name of a logged model, which may not contain some of its characters."""
    return re.sub(r"[/:.%\"']", "-", key)


def cell_metric(method: str, forget_set: str) -> str:
    """The GPU time of a cell, such as `gpu_seconds/ME-GD/forget05`: MLflow takes no + in the name of a metric."""
    return f"gpu_seconds/{re.sub(r'[^A-Za-z0-9_.-]+', '-', method)}/{forget_set}"


def registered_model_name(sweep: str, folder: str, forget_set: str) -> str:
    """Of a sweep's winners on one forget set; MLflow takes neither / nor :, and an @ would begin an alias."""
    parts = [*([] if folder.startswith(sweep) else [sweep]), folder, forget_set]
    return "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-.") for part in parts)


def loading_line(name: str, alias: str = "pareto-knee") -> str:
    """The Python that loads a winner."""
    return f'mlflow.pyfunc.load_model("models:/{name}@{alias}")'


def mlmodel(sweep: str, trial: TrialLog, *, model_id: str, run_id: str, python: str) -> dict[str, Any]:
    """The contents of MLmodel for a trial of the sweep in this folder or at this URI; the weights stay where they are.

    `orchestrator.registered` reads it. `python`: the version of the sweep.
    """
    config = trial.started.config
    kept = {key: config[key] for key in ("model", "evaluation") if isinstance(config.get(key), dict)}
    return {
        "flavors": {"python_function": {"loader_module": "orchestrator.registered", "python_version": python}},
        "model_id": model_id,
        "run_id": run_id,
        "metadata": {"sweep": sweep, "checkpoint": trial.checkpoint, **kept},
    }


def describe_registered(header: SweepStarted, forget_set: str, name: str, uri: str) -> str:
    """The description of a registered model, in Markdown; `uri` is where it is registered."""
    return "\n\n".join(
        [
            f"What **{header.name}** found best at forgetting `{forget_set}`, among the trials whose weights are kept.",
            "- `pareto-knee`: the compromise, the knee of the front over all methods\n"
            "- `best-utility`, `best-forgetting`: the ends of that front, best in one objective alone; "
            "the first often forgot little",
            "With Lethe installed, where the weights can be reached:",
            f'```python\nimport mlflow\n\nmlflow.set_tracking_uri("{uri}")\nmodel = {loading_line(name)}\n'
            'model.predict(["Who wrote it?"])  # answers\nmodel.get_raw_model()  # the transformers model\n```',
            "Each version says where its weights are; `python -m orchestrator.export` makes a plain model folder.",
        ]
    )


def describe_version(trial: TrialStarted, place: str, objectives: Mapping[str, float]) -> str:
    """The description of a version, in Markdown; `place` is the trial's folder, with its weights in `model`."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in objectives.items())
    return f"{trial.key}: {scores}.\n\n```\npython -m orchestrator.export {shlex.quote(place)} DEST\n```"


def run_tags(started: TrialStarted, header: SweepStarted, color: str) -> dict[str, str]:
    """Every facet by which runs can be filtered; MLflow has no OR and no IN, so each is a tag of its own."""
    train = started.config.get("train", {})
    kind = "confirmation" if started.confirms else "baseline" if started.number is None else "trial"
    seed = started.config.get("seed", header.seed) if started.confirms else header.seed
    tags = {
        "lethe.kind": kind,
        "lethe.sweep": header.name,
        "lethe.trial_key": started.key,
        "lethe.method": started.method,
        "lethe.forget_set": started.forget_set,
        "lethe.scenario": scenario_of(started.config) or scenario_of(header.config),
        "lethe.seed": str(seed),
        "lethe.confirms": started.confirms or "",
        "lethe.state": "RUNNING",
        "lethe.convention": str(train.get("convention", "")) if isinstance(train, dict) else "",
        "lethe.number": "" if started.number is None else str(started.number),
        "mlflow.runColor": color,
    }
    return {name: value for name, value in tags.items() if value}


def run_params(started: TrialStarted) -> dict[str, str]:
    """Sampled values under their own names, method, forget set, and the trial's config in dotted keys."""
    flat = {name: text for name, text in _leaves(started.config) if not name.startswith(_LEFT_OUT)}
    flat |= {name: str(value) for name, value in started.params.items()}
    flat |= {"method": started.method, "forget_set": started.forget_set}
    return {name: redact_uri(text)[:MAX_PARAM_CHARS] for name, text in flat.items()}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, str) else json.dumps(value)


def examples_table(examples: Sequence[ExampleAnswer]) -> dict[str, Any]:
    """Answers in the format of `mlflow.log_table`, which appends on every call and so is not used itself."""
    columns = ["set", "index", "question", "truth", "output"]
    return {"columns": columns, "data": [[e.set_name, e.index, e.question, e.truth, e.output] for e in examples]}


def describe(header: SweepStarted, report_run: str | None = None) -> str:
    """The experiment's description, in Markdown."""
    goals = ", ".join(f"`{goal.metric}` ({goal.direction})" for goal in header.objectives)
    methods = ", ".join(dict.fromkeys(cell.method for cell in header.cells))
    forget_sets = ", ".join(dict.fromkeys(cell.forget_set for cell in header.cells))
    versions = ", ".join(f"{name} {version}" for name, version in header.versions.items())
    lines = [
        f"**{header.name}**: an unlearning sweep by Lethe, rebuilt at any time from its journal.",
        f"- objectives: {goals}\n- methods: {methods}\n- forget sets: {forget_sets}",
        f"- {header.trials_per_cell} trials per method and forget set, seed {header.seed}\n- {versions}",
        f"The saved view shows the objectives with one colour per method; front: `tags.\"{FRONT_TAG}\" = 'true'`.",
        f"MLflow loads {RUNS_AT_ONCE} runs at a time, baselines and front first; *Load more*, below the list of runs, "
        "adds as many.",
    ]
    if num_seeds(header.config):
        lines.append('Runs that confirm the fronts are hidden there; they are those with `tags."lethe.confirms"`.')
    if report_run:
        lines.append("The full report is the artifact `report.html` of the run named `report`.")
    return "\n\n".join(lines)


def common_params(log: SweepLog) -> list[str]:
    """The searched settings that every trial has, in the order of the first trial: axes that no run lacks."""
    searched = [trial.started.params for trial in log.searched()]
    return [name for name in searched[0] if all(name in params for params in searched)] if searched else []


def task_metric(name: str) -> str:
    """The name in MLflow of a metric that is measured after each task of a chain."""
    return f"task/{name}"


def task_curves(log: SweepLog) -> list[str]:
    """The metrics that are drawn over the tasks; none where no trial is a chain."""
    known = {name for trial in log.trials.values() for task in trial.tasks for name in task.metrics}
    return [task_metric(name) for name in _TASK_CURVES if name in known]


def saved_view(header: SweepStarted, params: Sequence[str], curves: Sequence[str] = ()) -> str:
    """The value of the experiment tag that opens the chart page on the objectives; `curves` are metrics with steps.

    The format is MLflow's own and undocumented. It holds no clock and no random ids, so that writing it twice changes
    nothing. MLflow drops what a saved view says about pinned runs, and takes one key to sort by: FRONT_TAG, by which
    baselines come first, then the front, then, without the tag, the others.
    """
    goals = [goal.metric for goal in header.objectives]
    now = int(header.time * 1000)
    state = {
        "searchFilter": "tags.`lethe.kind` != 'report' AND tags.`lethe.kind` != 'confirmation'",
        "orderByKey": f"tags.`{FRONT_TAG}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(goals, params),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(goals, params, curves),
        "compareRunSections": [
            _section("Objectives", columns=min(2, max(1, len(goals) - 1))),
            *([_section("Tasks", columns=2)] if curves else []),
            _section("Settings", columns=1),
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": "Lethe", "createdAt": now, "updatedAt": now, "state": packed})


def _columns(goals: Sequence[str], params: Sequence[str]) -> list[str]:
    tags = ["lethe.state", FRONT_TAG]
    names = ["method", "forget_set", *params[:4]]
    return [
        *(f"tags.`{name}`" for name in tags),
        *(f"metrics.`{name}`" for name in goals),
        *(f"params.`{name}`" for name in names),
    ]


def _section(name: str, *, columns: int) -> dict[str, Any]:
    flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": _id("section", name), "name": name, "columns": columns, "cardHeight": 480, **flags}


def _charts(goals: Sequence[str], params: Sequence[str], curves: Sequence[str]) -> list[dict[str, Any]]:
    """A scatter of the first objective against each other one, curves, and all objectives over the settings."""
    settings = {"selectedParams": ["method", *params[:5]], "selectedMetrics": [*goals], "showAllRuns": True}
    scatters = [_scatter(goals[0], goal) for goal in goals[1:]]
    return [*scatters, *map(_line, curves), _chart("PARALLEL", "Settings", "settings", **settings)]


def _scatter(x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart("SCATTER", "Objectives", y, displayName=f"{y} over {x}", **axes)


def _line(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "scaleType": "linear"}
    own = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0, "displayPoints": True}
    shown = {"metricKey": metric, "selectedMetricKeys": [metric], "yAxisKey": "metric", "yAxisExpressions": []}
    return _chart("LINE", "Tasks", metric, range={}, ignoreOutliers=False, **axes, **own, **shown)


def _chart(kind: str, section: str, name: str, **settings: Any) -> dict[str, Any]:
    flags = {"deleted": False, "isGenerated": False, "runsCountToCompare": 1000}
    return {"uuid": _id(kind, name), "type": kind, "metricSectionId": _id("section", section), **flags, **settings}


def _id(kind: str, name: str) -> str:
    return "lethe-" + re.sub(r"\W+", "-", f"{kind}-{name}".lower())
