"""The suppression attack: instructions rewritten to forbid the concept, and what is left of steering under them.

Bao et al. 2026, Sec. 5 (Utility and robustness). The model is given the rewritten instruction. The judge is shown the original
one, as in the paper's code: concept = is the concept there all the same, instruct = is the original instruction answered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ..arguments import checked_call
from ..data import Prompt, check_text
from ..intervals import mean_interval, warning
from ..judges.base import Judge, check_judge
from ..model.bridge import Bridge
from ..reproducibility import row_seeds
from ..result import Result
from ..scores import RATINGS, SCORES
from ..steering.generation import as_prompts, generate
from ..steering.hooks import PerPrompt
from ..tables import read_table
from .scales import Steered, check_scales, scaled
from .scoring import Evaluation, as_frame, concept_of_each, judge_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

Rewrite = Callable[[str, str], str]
"""(concept, instruction) -> an instruction that forbids the concept."""


class Attacked(NamedTuple):
    """One concept's instructions, before and after rewriting."""

    concept: str
    prompts: tuple[str, ...]
    """The original instructions, which the judge is shown."""
    attacked: tuple[str, ...]
    """What the model is given."""


@dataclass(frozen=True, eq=False, repr=False)
class Suppression(Result):
    """Scores with and without the attack."""

    frame: pd.DataFrame
    """One row per generation: vector (its name), scale, attack (whether there was one), concept, prompt (as the judge saw
    it), given (as the model saw it, without a steering prompt), response, seed, concept_score, instruct_score, fluency_score,
    overall (0 to 2, NaN where unscored), error, and replies if the judge writes."""

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and scale.

        `overall` is the mean without the attack, `attacked` under it (0 to 2, over prompts, then over concepts), `drop` their
        difference on the prompts that are scored in both; each has `_low` and `_high`, the 95 % bootstrap interval (over
        concepts if there are several, else over prompts; of the drop over pairs). `concept`, `instruct`, `fluency` and the
        same with `attacked_` before them are the ratings; n counts the prompts, pairs those scored in both, units what the
        interval of the drop is over (concepts or pairs), unscored the rows of both without a score.
        """
        groups = self.frame.groupby(["vector", "scale"], sort=False)
        return pd.DataFrame([{"vector": name, "scale": scale} | _row(part) for (name, scale), part in groups])

    def evaluation(self, vector: str, *, scale: int | float = 1.0, attack: bool = True) -> Evaluation:
        """The judged rows of one vector at one scale."""
        rows = self.frame
        chosen = rows[(rows["vector"] == vector) & (rows["scale"] == float(scale)) & (rows["attack"] == attack)]
        if chosen.empty:
            there = sorted({(str(name), float(at)) for name, at in zip(rows["vector"], rows["scale"], strict=True)})
            raise ValueError(f"there is no vector {vector!r} at scale {scale:g}; there are {there}")
        return Evaluation(chosen.reset_index(drop=True))

    def summary(self) -> str:
        """What is left under the attack, in a sentence per vector and scale, three at most."""
        table = self.to_frame().sort_values("attacked", ascending=False, kind="stable")
        sentences = []
        for row in table.head(3).to_dict("records"):
            name = f"{row['vector']} at scale {row['scale']:g}"
            if pd.isna(row["drop"]):
                sentences.append(f"{name}: not scored both with and without the attack ({row['unscored']} rows unscored).")
                continue
            sentences.append(
                f"{name}: overall {row['overall']:.2f} of 2, {row['attacked']:.2f} under the attack (drop {row['drop']:.2f}, "
                f"{_interval(row)}, {row['pairs']} of {row['n']} prompts scored in both, {row['unscored']} rows unscored)."
            )
        more = len(table) - len(sentences)
        return " ".join(sentences) + (f" {more} more." if more else "")

    def plot(self) -> "go.Figure":
        """Overall score without the attack and under it, vector by vector and scale by scale."""
        from ..figures import plot_suppression

        return plot_suppression(self.to_frame())


@checked_call
def suppression(
    model: Bridge,
    sv: Steered | Mapping[str, Steered],
    concept: str | Sequence[str],
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    attacked: Sequence[Prompt] | Rewrite,
    scales: Sequence[int | float] = (1.0,),
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int = 0,
    chat: bool = True,
    batch_size: int | None = 16,
) -> Suppression:
    """Forbid the concept in the instruction and see what is left of steering.

    Args:
        sv: what steers (as for `generate`), or name -> what steers, to compare several: `{"prosv": a, "fssv": b}`.
        concept: what the judge looks for, in all responses or one per prompt (then with `PerPrompt` vectors).
        prompts: the original instructions, which the judge is shown.
        attacked: for each the instruction that the model is given instead: texts (of `read_suppression` or
            `terrarium.suppressing_prompts`), or a function (concept, instruction) -> text (`forbid`, or `rewriter` for an LLM).
        scales: multiply every vector's factor, such as (1, 0.8, 0.5). Steering prompts have no factor: they are run once.
        max_new_tokens, temperature, seed, chat, batch_size: as `generate`. A prompt's sampling seed is the same for all
            vectors and scales, with the attack and without.

    Raises:
        ValueError: no prompts, numbers that do not match, a scale twice, or an attack that leaves an instruction as it is.
    """
    batch = as_prompts(prompts)
    check_judge(judge)
    concepts = concept_of_each(concept, len(batch))
    given = _given(concepts, batch, attacked)
    named = dict(sv) if isinstance(sv, Mapping) else {"vector": sv}
    factors = check_scales(scales)
    if not named:
        raise ValueError("there are no vectors to attack")
    seeds = row_seeds(seed, len(batch)) * 2
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "chat": chat, "batch_size": batch_size}
    frames = []
    for name, steering in named.items():
        for scale, steered in scaled(steering, factors).items():
            both = PerPrompt([*steered, *steered]) if isinstance(steered, PerPrompt) else steered
            responses = generate(model, [*batch, *given], both, seed=seeds, **settings)
            rows = as_frame(judge_rows(judge, concepts * 2, batch * 2, responses, seeds))
            rows = rows.assign(given=list(map(text_of, [*batch, *given])))
            attack = [False] * len(batch) + [True] * len(batch)
            frames.append(rows.assign(vector=name, scale=scale, attack=attack))
    whole = pd.concat(frames, ignore_index=True)
    order = ["vector", "scale", "attack", "concept", "prompt", "given", "response", "seed", *SCORES, "error"]
    return Suppression(whole[[*order, *(name for name in whole if name not in order)]])


# --- attacks ----------------------------------------------------------------------------------------------------------


@checked_call
def forbid(concept: str, instruction: str) -> str:
    """The instruction with a plain sentence that forbids the concept: the simplest attack."""
    return f"{instruction}\n\nYour answer must not contain anything of this kind: {concept}. Leave it out altogether."


def rewriter(complete: Callable[[str], str]) -> Rewrite:
    """An attack written by a language model.

    Args:
        complete: sends a text to the model and returns its reply.
    """

    def rewrite(concept: str, instruction: str) -> str:
        reply = complete(rewriting_request(concept, instruction)).strip()
        if not reply:
            raise ValueError(f"the model returned nothing for the instruction {instruction!r:.60}")
        return reply

    return rewrite


def rewriting_request(concept: str, instruction: str) -> str:
    """What a language model is asked, to have an instruction rewritten."""
    return (
        "Below are an instruction for an assistant and a theme. Write the instruction again so that it asks for the same "
        "thing, and so that it also makes plain, as a natural part of the wording, that the answer must keep clear of the "
        "theme: no mention of it, no hint at it, nothing in its style. Change nothing else that is asked for. Reply with the "
        f"new instruction alone.\n\n<instruction>\n{instruction}\n</instruction>\n\n<theme>\n{concept}\n</theme>"
    )


@checked_call
def read_suppression(path: str | Path) -> dict[int, Attacked]:
    """Read suppression prompts from parquet, csv, json or jsonl: columns original_prompt, steered_prompt, concept, concept_id.

    Returns:
        Concept id -> its instructions before and after rewriting, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no table, missing columns, a row that is not text, or an id that is no whole number; the message names it.
    """
    source = Path(path)
    table = read_table(source, other=".parquet")
    columns = ["original_prompt", "steered_prompt", "concept", "concept_id"]
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"{source.name} lacks the columns {missing}")
    for number, row in enumerate(table[columns].to_dict("records")):
        for name in columns[:3]:
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"{source.name}, row {number}: {name} is {row[name]!r:.40}, not a text")
            check_text(row[name], f"{source.name}, row {number}: {name}")
    ids = [_whole(value, f"{source.name}, row {number}") for number, value in enumerate(table["concept_id"])]
    found = {}
    for number, part in table.groupby(pd.Series(ids, index=table.index, dtype=int)):
        if part["concept"].nunique() > 1:
            raise ValueError(f"{source.name}: concept {number} has several names: {sorted(set(part['concept']))}")
        prompts, attacked = (tuple(map(str, part[name])) for name in columns[:2])
        found[int(str(number))] = Attacked(str(part["concept"].iloc[0]), prompts, attacked)
    return found


def _whole(value: Any, where: str) -> int:
    """A concept's id; 3.0 is 3, as pandas writes a column that has had a gap."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError(f"{where}: concept_id is {value!r:.40}, not a whole number")
    return int(number)


# --- shared with the frontier -----------------------------------------------------------------------------------------


def text_of(prompt: Prompt) -> str:
    """What a judge is shown of a prompt: a conversation's last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _given(concepts: Sequence[str], prompts: Sequence[Prompt], attacked: Sequence[Prompt] | Rewrite) -> list[Prompt]:
    """The attacked prompts, checked."""
    if callable(attacked):
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise ValueError(f"prompt {number} is a conversation, which a function cannot rewrite: give attacked prompts")
        given: list[Prompt] = [attacked(concept, text_of(prompt)) for concept, prompt in zip(concepts, prompts, strict=True)]
    elif isinstance(attacked, str):
        raise ValueError(f"attacked is one text, {attacked!r:.60}: give a list with one per prompt, in order")
    else:
        given = as_prompts(attacked)
    if len(given) != len(prompts):
        raise ValueError(f"{len(given)} attacked prompts for {len(prompts)} prompts: give one per prompt, in order")
    for number, (before, after) in enumerate(zip(prompts, given, strict=True)):
        if before == after:
            raise ValueError(f"prompt {number} is the same with the attack and without: {text_of(before)!r:.60}")
    return given


# --- numbers ----------------------------------------------------------------------------------------------------------


def _row(part: pd.DataFrame) -> dict[str, Any]:
    """One vector at one scale, with the attack and without."""
    sides = {"overall": part[~part["attack"]], "attacked": part[part["attack"]]}
    row: dict[str, Any] = {}
    for name, rows in sides.items():
        side = Evaluation(rows)
        row[name] = _number(side.mean("overall"))
        row[f"{name}_low"], row[f"{name}_high"] = side.interval() or (np.nan, np.nan)
        before = "" if name == "overall" else "attacked_"
        row |= {f"{before}{rating}": _number(side.mean(f"{rating}_score")) for rating in RATINGS}
    row |= _drop(*(rows.reset_index(drop=True) for rows in sides.values()))
    return row | {"n": len(part) // 2, "unscored": int(part["overall"].isna().sum())}


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _drop(plain: pd.DataFrame, attacked: pd.DataFrame) -> dict[str, Any]:
    """Mean of plain minus attacked over the pairs scored in both, with its interval; NaN where there are none."""
    pairs = pd.DataFrame({"concept": plain["concept"], "drop": plain["overall"] - attacked["overall"]}).dropna()
    units = pairs.groupby("concept")["drop"].mean() if pairs["concept"].nunique() > 1 else pairs["drop"]
    low, high = mean_interval(units.to_numpy()) or (np.nan, np.nan)
    return {"drop": units.mean(), "drop_low": low, "drop_high": high, "pairs": len(pairs), "units": len(units)}


def _interval(row: Mapping[Any, Any]) -> str:
    """The interval of the drop in words."""
    if np.isnan(row["drop_low"]):
        return "no interval"
    return f"95 % interval {row['drop_low']:.2f} to {row['drop_high']:.2f}{warning(int(row['units']))}"
