"""A vector at work in a notebook: type a prompt, move the factor, choose the positions, and read both texts side by side."""

import html
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..analysis.vector_sets import Vectors, named_vectors
from ..arguments import checked_call
from ..figures.token_views import view_tokens
from ..model.batches import EncodedExample, collate
from ..model.bridge import Bridge
from ..model.chat import decode_response, response_stops
from ..model.tokenizer import token_strings
from ..reproducibility import row_seeds
from ..steering.decoding import decode
from ..steering.generation import generate, prepare
from ..steering.hooks import check_fits
from ..steering.recording import divergence, record
from ..vector import SteeringVector

PROMPT = "Tell me something."
OWN = "its own"
PLACES = (OWN, "p2+s2", "p1", "p2", "s1", "s2", "prompt", "response", "all")
"""Offered positions; `OWN` are those of the vector."""
LOWEST, HIGHEST, STEP = -2.0, 3.0, 0.05
"""Range of the slider, in multiples of the vector's own factor."""
LIMIT = 5.0
"""Change of log-probability, in nats, with the darkest colour: the same for all settings, so that colours compare."""
NOTE = "Log-probability of each token, steered minus unsteered. Beyond the ends of the scale the colour stays the same."
READY = '<span class="steerlens-ready"></span>'
REMEDY = "For sliders, run this in Jupyter with ipywidgets: pip install 'steerlens[notebook]'."
_COLUMNS = "display:grid;grid:auto/1fr 1fr;gap:20px;font-family:system-ui;background:#fff;color:#1a1a1a;line-height:1.5"
_BUSY = """<style>@keyframes steerlens-turn{to{transform:rotate(360deg)}}
.steerlens-busy{display:inline-block;width:12px;height:12px;border:2px solid #ccc;border-top-color:#0072B2;border-radius:50%;
animation:steerlens-turn 1s linear infinite}</style><span class="steerlens-busy"></span> working"""


class Choice(NamedTuple):
    """What is set in the view."""

    name: str
    """Of the vector."""
    prompt: str
    multiple: float
    """Of the vector's own factor."""
    positions: str
    temperature: float
    seed: int


class Comparison(NamedTuple):
    """A prompt's responses with and without a vector."""

    plain: str
    steered: str
    tokens: tuple[str, ...]
    """Of the steered response."""
    change: tuple[float, ...]
    """Log-probability of each of these tokens, steered minus unsteered, in nats."""
    kl: tuple[float, ...]
    """KL(p_steered || p_plain) of the prediction of each, in nats."""


@checked_call
def explore(
    model: Bridge,
    sv: Vectors,
    *,
    prompt: str = PROMPT,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = True,
) -> "Explorer":
    """An interactive view of one vector, or of several to choose from.

    The steered response's tokens are coloured by what the vector does to each: its log-probability under steering minus that
    without, on the same tokens. Every setting is computed once and kept. Without ipywidgets the result is text.

    Args:
        prompt: to begin with.
        max_new_tokens: length limit of the responses.
        temperature, seed: to begin with; 0 = greedy.
        chat: put the prompt into the model's chat template.

    Returns:
        The view, which Jupyter displays; `.widget` is the widget, `.text()` what it shows as text.

    Raises:
        TypeError: something that is not a SteeringVector.
        ValueError: no vector, two names that read the same, one that does not fit the model, or a prompt and settings
            that `generate` refuses.
    """
    vectors = named_vectors(sv, zero=True, reft=True)
    for vector in vectors.values():
        check_fits(model, vector)
    first = Choice(next(iter(vectors)), prompt, 1.0, OWN, float(temperature), seed)
    return Explorer(model, vectors, first, max_new_tokens, chat)


def compare(
    model: Bridge,
    sv: SteeringVector,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = True,
) -> Comparison:
    """Both responses to a prompt, as `generate` gives them, and what the vector does to each token of the steered one."""
    (plain,) = generate(
        model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, chat=chat, batch_size=1
    )
    rows, edits = prepare(model, [prompt], sv, max_new_tokens, chat)
    generators = [torch.Generator().manual_seed(own) for own in row_seeds(seed, 1)]
    (answer,) = decode(model, rows, edits, generators, max_new_tokens, temperature, stops=response_stops(model, chat=chat))
    if not answer:
        return Comparison(plain, "", (), (), ())
    batch = collate(model, [EncodedExample(tuple(rows[0]), tuple(answer))])
    predicting = slice(len(rows[0]) - 1, -1)  # the logits at a token predict the one after it
    with_vector, without = (record(model, batch, steer).logits[0, predicting] for steer in (sv, None))
    chosen = torch.tensor(answer, device=with_vector.device)[:, None]
    change = (with_vector.log_softmax(-1) - without.log_softmax(-1)).gather(-1, chosen)[:, 0]
    kl = divergence(with_vector, without).clamp(min=0)
    texts = decode_response(model, answer), tuple(token_strings(model, answer))
    return Comparison(plain, *texts, tuple(change.tolist()), tuple(kl.tolist()))


class Explorer:
    """The view that `explore` gives."""

    def __init__(
        self, model: Bridge, vectors: Mapping[str, SteeringVector], choice: Choice, max_new_tokens: int, chat: bool
    ) -> None:
        self.model = model
        self.vectors = dict(vectors)
        self.choice = choice
        """What is shown; a choice that failed is not."""
        self._settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "chat": chat}
        self._known: dict[Choice, Comparison] = {}
        self.compare(choice)  # what is refused is refused here, not inside the view
        self.widget: Any = _widget(self)

    def vector(self, choice: Choice) -> SteeringVector:
        """The vector as a choice sets it."""
        scaled = self.vectors[choice.name].scaled(choice.multiple)
        return scaled if choice.positions == OWN else scaled.replace(positions=choice.positions)

    def compare(self, choice: Choice) -> Comparison:
        """Both texts, computed once for each choice."""
        if choice not in self._known:
            sampling: dict[str, Any] = {"temperature": choice.temperature, "seed": choice.seed}
            self._known[choice] = compare(self.model, self.vector(choice), choice.prompt, **self._settings, **sampling)
        return self._known[choice]

    def describe(self, choice: Choice) -> str:
        """What steers, in a line."""
        sv = self.vector(choice)
        positions = "positions of its own function" if callable(sv.positions) else sv.positions
        return f"{choice.name}: factor {sv.factor:.4g} ({choice.multiple:.2f} x its own), {positions}, layer {sv.layer}"

    def text(self) -> str:
        """What the view shows, as text."""
        seen = self.compare(self.choice)
        lines = [f"prompt: {self.choice.prompt}", "", "unsteered:", seen.plain or "(empty)", ""]
        lines += [f"steered by {self.describe(self.choice)}:", seen.steered or "(empty)"]
        return "\n".join([*lines, "", REMEDY] if self.widget is None else lines)

    def html(self, choice: Choice) -> str:
        """Both texts side by side, the steered one coloured."""
        seen = self.compare(choice)
        steered = "<p>(empty: the response ends at once)</p>"
        if seen.tokens:
            hover = [f"KL of this prediction: {kl:.3g} nats" for kl in seen.kl]
            steered = view_tokens(seen.tokens, seen.change, note=NOTE, unit="nats", hover=hover, limit=LIMIT).html
        plain = f'<p style="white-space:pre-wrap;line-height:2">{html.escape(seen.plain) or "(empty)"}</p>'
        left = f"<div><b>unsteered</b>{plain}</div>"
        right = f"<div><b>steered by {html.escape(self.describe(choice))}</b>{steered}</div>"
        return f'<div class="steerlens-comparison" style="{_COLUMNS}">{left}{right}</div>'

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **wanted: Any) -> dict[str, Any]:
        shown = {} if self.widget is None else self.widget._repr_mimebundle_(**wanted)
        return {**shown, "text/plain": self.text()}


# --- widgets ------------------------------------------------------------------------------------------------------------


def _widget(explorer: Explorer) -> Any:
    """The controls and what they change; None where ipywidgets is missing."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    first = explorer.choice
    wide, style = widgets.Layout(width="98%"), {"description_width": "90px"}
    late: dict[str, Any] = {"continuous_update": False, "style": style}  # a change counts when it is finished
    range_: dict[str, Any] = {"min": LOWEST, "max": HIGHEST, "step": STEP, "readout_format": ".2f"}
    controls: dict[str, Any] = {
        "name": widgets.Dropdown(options=list(explorer.vectors), value=first.name, description="vector", style=style),
        "prompt": widgets.Text(value=first.prompt, description="prompt", layout=wide, **late),
        "multiple": widgets.FloatSlider(value=first.multiple, description="x its factor", **range_, **late),
        "positions": widgets.Dropdown(options=PLACES, value=first.positions, description="positions", style=style),
        "temperature": widgets.BoundedFloatText(
            value=first.temperature, min=0, max=5, step=0.1, description="temperature", **late
        ),
        "seed": widgets.IntText(value=first.seed, description="seed", **late),
    }
    status, output = widgets.HTML(), widgets.HTML(layout=wide)

    def update(_change: Any = None) -> None:
        status.value = _BUSY
        choice = Choice(**{field: control.value for field, control in controls.items()})
        try:
            output.value, status.value, explorer.choice = explorer.html(choice), READY, choice
        except Exception as error:  # whatever goes wrong is read in the view, where the setting that did it can be changed
            output.value, status.value = _problem(error), READY

    for control in controls.values():
        control.observe(update, names="value")
    update()
    shown = dict(controls)
    if len(explorer.vectors) == 1:
        del shown["name"]
    head = [shown.pop("prompt"), *([shown.pop("name")] if "name" in shown else [])]
    return widgets.VBox([*head, widgets.HBox(list(shown.values())[:2]), widgets.HBox(list(shown.values())[2:]), status, output])


def _problem(error: Exception) -> str:
    said = html.escape(f"{type(error).__name__}: {error}")
    return f'<p class="steerlens-problem" style="border-left:4px solid #D55E00;padding-left:10px">{said}</p>'
