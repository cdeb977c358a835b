"""lm-evaluation-harness (Gao et al., github.com/EleutherAI/lm-evaluation-harness) on a steered model, positions honoured.

What a task gives as context is the prompt, what it scores or has generated is the response: "p2+s2" edits the context's first
and last two tokens, "all" everything. Needs the extra `evals` (the package lm-eval), which is imported on use and only here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...arguments import checked_call
from ...model.batches import check_batch_size
from ...model.bridge import Bridge, check_model
from ...model.tokenizer import has_template
from ...result import Result
from ...steering.hooks import PerPrompt, SteerText, as_list, check_fits
from ...steering.steering_prompt import SteeringPrompt
from ...vector import SteeringVector
from .runner import Runner, adapter

if TYPE_CHECKING:
    import plotly.graph_objects as go

Task = str | Path | Mapping[str, Any]
"""A task's name in the harness, the path of a YAML file, or its configuration."""


@dataclass(frozen=True, eq=False, repr=False)
class HarnessScores(Result):
    """What the harness measured."""

    frame: pd.DataFrame
    """One row per task, metric and filter: task, metric, filter, value (in the metric's units), stderr (NaN where the harness
    gives none), n (documents), higher_is_better, num_fewshot."""
    samples: pd.DataFrame
    """One row per document and filter: task, doc_id, filter, target, responses (the model's, as text), and the document's value
    of each metric that is a number."""

    def to_frame(self) -> pd.DataFrame:
        """One row per task, metric and filter; see `frame`."""
        return self.frame.copy()

    def value(self, task: str, metric: str | None = None, filter: str | None = None) -> float:
        """One number; metric and filter may be left out where the task has one."""
        rows = self.frame[self.frame["task"] == task]
        for column, wanted in (("metric", metric), ("filter", filter)):
            rows = rows if wanted is None else rows[rows[column] == wanted]
        if len(rows) != 1:
            there = self.frame[["task", "metric", "filter"]].to_dict("records")
            raise ValueError(f"{task!r}, {metric!r}, {filter!r} names {len(rows)} numbers, not one; there are {there}")
        return float(rows["value"].iloc[0])

    def summary(self) -> str:
        """The numbers in a sentence."""
        numbers = []
        for row in self.frame.to_dict("records"):
            error = "" if pd.isna(row["stderr"]) else f" ± {1.96 * row['stderr']:.3f}"
            kind = "" if row["filter"] == "none" else f" ({row['filter']})"
            numbers.append(f"{row['task']} {row['metric']}{kind} {row['value']:.3f}{error} (n {row['n']})")
        return f"{'; '.join(numbers)}; ± is 1.96 standard errors."

    def plot(self) -> "go.Figure":
        """Value of each task and metric, with its error."""
        from ...figures import plot_harness

        return plot_harness(self.frame, self.summary())


@checked_call
def harness_scores(
    model: Bridge,
    sv: SteerText,
    tasks: Task | Sequence[Task],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = True,
    max_gen_toks: int = 256,
    batch_size: int = 8,
    include_path: str | Path | None = None,
    seed: int = 1234,
    progress: bool = False,
) -> HarnessScores:
    """Run tasks of lm-evaluation-harness on a steered model.

    Args:
        sv: a vector, several together, a `SteeringPrompt` (put before the context's last message), or None.
        tasks: names ("tinyMMLU", "tinyGSM8k", which fetch their data), YAML paths, or configurations as dicts.
        limit: documents per task, from the first.
        num_fewshot: examples in the context; None = as the task says, and a task that says 0 keeps 0.
        chat: put contexts into the chat template, few-shot examples as turns; a tokenizer without one uses bare text. Where
            the template has no place for a task's description, it begins the first message of the user.
        max_gen_toks: length limit of generations where the task sets none. Texts are cut at a task's stop strings afterwards.
        batch_size: rows per forward pass.
        include_path: folder of further task YAMLs.
        seed: of the few-shot examples and of sampling, for tasks that sample.

    Returns:
        Unsteered, the scores of lm-evaluation-harness's own `hf` model. Context and response are encoded together, and white
        space at the context's end, such as the line break of a template's generation header, is scored with the response.
        What a vector takes for the prompt is the whole context all the same, as in generation; where both together have other
        tokens (one for the line break and what follows), it is what they share. `hf` goes on after a template's end of a turn
        that its generation config does not name, and keeps a model's reasoning, unlike here.

    Raises:
        ImportError: lm-eval is not installed.
        TypeError: `PerPrompt`, as the prompts are the tasks'.
        ValueError: a vector that does not fit, an unknown task, a group as a dict, a row longer than the context (nothing is
            cut off: that would move the edited positions), generation settings other than stop strings, greedy or
            temperature, or a perplexity of whole texts (loglikelihood_rolling) under a vector that edits some tokens of a
            prompt, as a text has no prompt.
    """
    check_model(model)
    check_batch_size(batch_size)
    if max_gen_toks < 1:
        raise ValueError(f"max_gen_toks is {max_gen_toks}; it must be at least 1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1, or None for all documents")
    if isinstance(sv, PerPrompt):
        as_list(sv)  # raises, and says why
    listed = [sv] if isinstance(sv, (SteeringVector, SteeringPrompt)) else list(sv or ())
    vectors = as_list([part for part in listed if not isinstance(part, SteeringPrompt)])
    for vector in vectors:
        check_fits(model, vector)
    asked = [part for part in listed if isinstance(part, SteeringPrompt)]
    loaded = _load(tasks, include_path, num_fewshot, seed)
    runner = Runner(model, vectors, asked, chat and has_template(model), batch_size)
    from lm_eval.evaluator import evaluate

    settings = {"limit": limit, "bootstrap_iters": 1000, "log_samples": True}
    results: Any = evaluate(
        adapter(runner, max_gen_toks, seed, progress),
        loaded,
        apply_chat_template=runner.chat,
        fewshot_as_multiturn=runner.chat,
        **settings,
    )
    return HarnessScores(_rows(results), _samples(results))


# --- tasks ------------------------------------------------------------------------------------------------------------


def _load(tasks: Task | Sequence[Task], include_path: str | Path | None, num_fewshot: int | None, seed: int) -> Any:
    """The harness's own task objects, with the number of few-shot examples set as its command line sets it."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ImportError(
            "benchmarks of lm-evaluation-harness need the package lm-eval: pip install steerlens[evals]"
        ) from error
    listed = [tasks] if isinstance(tasks, (str, Path, Mapping)) else list(tasks)
    if not listed:
        raise ValueError("there are no tasks")
    for task in listed:
        if isinstance(task, Mapping) and ("group" in task or not isinstance(task.get("task"), str)):
            raise ValueError(
                f'{task.get("group", dict(task))!r}: a dict must configure one task, with its name as "task"; give the '
                "tasks of a group as a list, or name a group that the harness knows"
            )
    specs = [dict(task) if isinstance(task, Mapping) else str(task) for task in listed]
    manager = _own_tasks() if include_path is None else TaskManager(include_path=str(include_path))
    try:
        loaded = manager.load(specs)
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: name a task of lm-evaluation-harness, a YAML file, or give a dict") from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return loaded


@cache
def _own_tasks() -> Any:
    """The harness's index of its own tasks, which takes it seconds to read from thousands of files: once per process."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _rows(results: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for task, metrics in results["results"].items():
        n = results["n-samples"].get(task, {}).get("effective")
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            row = {"task": task, "metric": metric, "filter": kind, "value": float(value)}
            row |= {"stderr": float(error) if isinstance(error, (int, float)) else float("nan"), "n": n}
            row |= {"higher_is_better": results["higher_is_better"].get(task, {}).get(metric)}
            rows.append(row | {"num_fewshot": results["n-shot"].get(task)})
    return pd.DataFrame(rows)


def _samples(results: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for task, samples in results["samples"].items():
        for sample in samples:
            numbers = {name: sample[name] for name in sample["metrics"] if isinstance(sample[name], (int, float))}
            row = {"task": task, "doc_id": sample["doc_id"], "filter": sample["filter"], "target": str(sample["target"])}
            rows.append(row | {"responses": str(sample["filtered_resps"])} | numbers)
    return pd.DataFrame(rows)
