"""The audit: which token of which row was edited, in which phase, at which layer, and by how much."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt
from ..model.bridge import Bridge
from ..model.chat import response_stops
from ..model.tokenizer import token_strings
from ..result import Result
from .decoding import decode
from .generation import as_prompts, prepare
from .hooks import Edit, PerPrompt, Recorder, Steer
from .prompt_tracking import PassTracker

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class EditedToken:
    """One edit of one token."""

    row: int
    """Index of the prompt."""
    index: int
    """Of the token in its row's sequence, padding not counted, from 0."""
    token: str
    """The token as text."""
    phase: str
    """prefill or decode."""
    layer: int
    positions: str
    edit_norm: float
    """||h_after - h_before||."""
    relative: float
    """edit_norm / ||h_before||: the dose in units of the token's own residual norm."""


@dataclass(frozen=True, repr=False)
class Audit(Result):
    """What was edited while a batch was generated. `tokens` is in the order in which the edits happened."""

    edits: tuple[EditedToken, ...]
    rows: tuple[tuple[str, ...], ...]
    """All tokens of each row, prompt and response, as text."""
    prompt_lengths: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per edited token, with the columns of `EditedToken`."""
        columns = [field.name for field in fields(EditedToken)]
        return pd.DataFrame([vars(edit) for edit in self.edits], columns=columns)

    def plot(self) -> "go.Figure":
        """The size of the edit at each edited token."""
        from ..figures import plot_edits

        return plot_edits(self.to_frame())

    def summary(self) -> str:
        """A sentence: how many tokens were edited in each phase and how strongly."""
        if not self.edits:
            return f"No token was edited in {len(self.rows)} rows."
        phases = Counter(edit.phase for edit in self.edits)
        parts = ", ".join(f"{count} in {phase}" for phase, count in phases.items())
        doses = sorted(edit.relative for edit in self.edits)
        return (
            f"{len(self.edits)} edits in {len(self.rows)} rows ({parts}); median size {doses[len(doses) // 2]:.2f} times "
            "the token's residual norm."
        )

    def show(self, row: int = 0) -> str:
        """One row's text with each edited token in [brackets] and a bar where the response begins."""
        edited = {edit.index for edit in self.edits if edit.row == row}
        pieces = [f"[{token}]" if index in edited else token for index, token in enumerate(self.rows[row])]
        split = self.prompt_lengths[row]
        return "".join(pieces[:split]) + " | " + "".join(pieces[split:])


@checked_call
def audit(
    model: Bridge,
    prompts: Prompt | Sequence[Prompt],
    steer: Steer | PerPrompt,
    *,
    max_new_tokens: int = 8,
    chat: bool = True,
    use_cache: bool = True,
) -> Audit:
    """Generate greedily in one batch and record every edit.

    Raises:
        ValueError: as `generate`.
    """
    batch = as_prompts(prompts)
    rows, edits = prepare(model, batch, steer, max_new_tokens, chat)
    seen: list[EditedToken] = []
    stops, recorder = response_stops(model, chat=chat), _recorder_into(seen)
    greedy = [None] * len(rows)
    responses = decode(model, rows, edits, greedy, max_new_tokens, 0.0, stops=stops, use_cache=use_cache, record=recorder)
    texts = [token_strings(model, [*row, *response]) for row, response in zip(rows, responses, strict=True)]
    edited = [replace(edit, token=texts[edit.row][edit.index]) for edit in seen if edit.index < len(texts[edit.row])]
    return Audit(tuple(edited), tuple(map(tuple, texts)), tuple(map(len, rows)))


def _recorder_into(seen: list[EditedToken]) -> Recorder:
    """A recorder that appends each edited token, whose text is known only when all are generated."""

    def record(tracker: PassTracker, edit: Edit, before: Tensor, after: Tensor, mask: Tensor) -> None:
        if edit.which is not None:
            mask = mask & (edit.which.to(mask.device) >= 0)[:, None]
        change = (after.float() - before.float()).norm(dim=-1)
        size = before.float().norm(dim=-1)
        indices = tracker.token_index()
        positions = edit.positions if isinstance(edit.positions, str) else "function"
        for row, column in mask.nonzero().tolist():
            edit_norm, whole = float(change[row, column]), float(size[row, column])
            index = int(indices[row, column])
            seen.append(
                EditedToken(
                    row=row,
                    index=index,
                    token="",
                    phase=tracker.token_phase(row, index),
                    layer=edit.layer,
                    positions=positions,
                    edit_norm=edit_norm,
                    relative=edit_norm / whole if whole > 0 else math.inf,
                )
            )

    return record
