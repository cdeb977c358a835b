"""Whether settings carry across widths: the sizes of a vector's updates on random models that grow.

A coordinate check. By Bao et al. 2026, Sec. 4, training is stable if the feature z = factor * direction keeps its size per
coordinate as d_model = n grows, and efficient if so do the three parts of its update

    delta1 = (d factor) direction,   delta2 = factor (d direction),   delta3 = (d factor)(d direction).

Here the slope of log size against log n is measured for all four; 0 is what the paper's scaling promises.
"""

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..arguments import checked_call
from ..data import SteeringData
from ..intervals import t_quantile
from ..model.batches import encode_data
from ..model.bridge import Bridge, hook_name
from ..model.loading import load_model
from ..positions import PositionFunction
from ..result import Result
from ..steering.recording import batches, record
from ..training.loop import train
from ..training.scaling import TrainConfig

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTHS = (64, 128, 256, 512, 1024)
HEAD = 32
"""Size of an attention head at every width: a wider model has more heads, as families of real models do."""
BLOCKS, LAYER = 3, 0
"""Blocks of each model, and the one whose output is edited."""
VOCABULARY = 128
PROMPT, RESPONSE = 10, 8
"""Words of each prompt and response."""
CONCEPT = 16
"""Words that responses are drawn from: what there is to learn."""
QUANTITIES = ("delta1", "delta2", "delta3", "feature")
TUNED_AT = 256
BASE = TrainConfig(epochs=1, batch_size=12, factor_init=1.0, direction_init=2.0, factor_lr=1.0, direction_lr=0.01)
"""At width TUNED_AT: a feature about as large as the residual stream, which a step changes by about a tenth."""


@dataclass(frozen=True)
class Scaling:
    """Settings at one width, and the powers of the width by which they go to others.

    The defaults are the paper's: factor and its rate as n^1/2, direction and its rate as n^-1/2, as
    `steerlens.scaling.transfer` does.
    """

    name: str
    config: TrainConfig = BASE
    """As used at width `tuned_at`. Its `epochs` is not used: every step has examples of its own."""
    tuned_at: int = TUNED_AT
    factor_init: float = 0.5
    """Power of the first factor (beta * sqrt(n) in all)."""
    direction_init: float = -0.5
    """Power of the size of the first direction's entries."""
    factor_lr: float = 0.5
    """Power of the factor's learning rate."""
    direction_lr: float = -0.5
    """Power of the direction's learning rate."""

    def at(self, width: int) -> TrainConfig:
        """The settings at another width. `factor_init` and `direction_init` of a config are constants before n^(+-1/2)."""
        ratio, config = width / self.tuned_at, self.config
        # of a normal draw direction_init is the variance's constant, of a uniform one the size's
        power = (self.direction_init + 0.5) * (2 if config.init_distribution == "normal" else 1)
        return replace(
            config,
            factor_init=config.factor_init * ratio ** (self.factor_init - 0.5),
            direction_init=config.direction_init * ratio**power,
            factor_lr=config.factor_lr * ratio**self.factor_lr,
            direction_lr=config.direction_lr * ratio**self.direction_lr,
        )


PAPER = Scaling("paper")
CONSTANT_RATES = Scaling("constant rates", factor_lr=0.0, direction_lr=0.0)
UNIT_FACTOR = Scaling(
    "factor from 1, constant rates",
    replace(BASE, factor_init=1 / math.sqrt(TUNED_AT)),
    factor_init=0.0,
    factor_lr=0.0,
    direction_lr=0.0,
)
SETTINGS = (PAPER, CONSTANT_RATES, UNIT_FACTOR)


@dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck(Result):
    """Sizes of updates and feature in training, width by width."""

    rows: pd.DataFrame
    """One row per setting, width, seed, step and quantity, with its value: delta1, delta2, delta3 (root mean square per
    coordinate of the parts of the step's update), feature (of factor * direction after the step; both in residual-stream
    units) and loss (nats per token, before the step)."""
    models: pd.DataFrame
    """One row per width and seed: root mean squares of the unsteered model's residual stream where it is edited (per
    coordinate) and of its logits. The theory asks for models in which neither grows or shrinks with the width."""
    reference: int
    """The width at which the summary gives sizes."""

    def to_frame(self) -> pd.DataFrame:
        """Columns setting, width, seed, step, quantity, value, as in `rows`."""
        return self.rows.copy()

    def sizes(self) -> pd.DataFrame:
        """One row per setting, quantity, width and seed: size, the root mean square of the values over all steps."""
        kept = self.rows[self.rows["quantity"].isin(QUANTITIES)]
        grouped = kept.assign(size=kept["value"] ** 2).groupby(["setting", "quantity", "width", "seed"], sort=False)["size"]
        return grouped.mean().pow(0.5).reset_index()

    def slopes(self) -> pd.DataFrame:
        """One row per setting and quantity, by least squares of log size against log width over all widths and seeds.

        Each seed has a level of its own, since its data are the same at every width. Columns: setting, quantity, slope, low,
        high (95 % t-interval of the slope), size (of the fitted lines at the reference width), runs. A size of 0, such as of
        delta1 where the factor is fixed, has no slope: NaN.
        """
        rows = []
        for (setting, quantity), part in self.sizes().groupby(["setting", "quantity"], sort=False):
            fit = _fit(part["width"].to_numpy() / self.reference, part["seed"].to_numpy(), part["size"].to_numpy())
            rows.append({"setting": setting, "quantity": quantity, **fit, "runs": len(part)})
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Size against width on log axes, a panel per quantity and a line per setting."""
        from ..figures.width_scaling import plot_coordinate_check

        return plot_coordinate_check(self.sizes(), self.slopes())

    def summary(self) -> str:
        """Slopes and sizes of each setting."""
        widths, seeds = sorted(self.rows["width"].unique()), self.rows["seed"].nunique()
        steps = self.rows["step"].nunique()
        text = [f"Widths {', '.join(map(str, widths))}, {seeds} seed(s), {steps} steps; slope of log size against log width."]
        for setting, part in self.slopes().groupby("setting", sort=False):
            sizes = [
                f"{row.quantity} {row.slope:+.2f} [{row.low:+.2f}, {row.high:+.2f}] (size {row.size_at:.3g})"
                for row in part.rename(columns={"size": "size_at"}).itertuples()
            ]
            text.append(f"{setting}: {', '.join(sizes)}.")
        return " ".join(text) + f" Brackets: 95 % intervals; sizes are those at width {self.reference}."


@checked_call
def coordinate_check(
    *,
    widths: Sequence[int] = WIDTHS,
    settings: Scaling | Sequence[Scaling] | None = None,
    positions: str | PositionFunction = "p2+s2",
    steps: int = 30,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> CoordinateCheck:
    """Train vectors on random models of growing width and measure how updates and feature scale (Bao et al. 2026, Sec. 4).

    The models are Llamas with heads of a fixed size, drawn at 1/sqrt(fan-in) and with embeddings of size 1, so that
    residual stream and logits have the same size at every width (`models` of the result says so). The prompts are random
    words; the responses are drawn from a few of them. Data and seeds are the same for all settings. The defaults take some
    minutes on one thread.

    Args:
        widths: of the models, at least three different ones, multiples of the size of a head.
        settings: how settings go with the width; None = the paper's scaling, rates that stay the same at every width, and
            these with a factor that starts at 1.
        positions: the tokens that are edited.
        steps: of training, each on examples of its own.
        seeds: of model, data and direction together; a model, a data set and a direction each.
        progress: show a progress bar.

    Raises:
        ValueError: widths, settings, steps or seeds of which no slope can be made.
        TrainingError: a loss is not finite.
    """
    listed = _listed(settings)
    _check(widths, listed, steps, seeds)
    rows, models = [], []
    with tqdm(total=len(widths) * len(seeds) * len(listed), desc="widths", disable=not progress) as bar:
        for width in sorted(widths):
            for seed in seeds:
                model = random_model(width, seed)
                models.append({"width": width, "seed": seed, **_model_sizes(model, random_data(12, seed))})
                for setting in listed:
                    config = replace(setting.at(width), epochs=1)
                    data = random_data(steps * config.batch_size * config.accumulate, seed)
                    sv = train(model, data, layer=LAYER, positions=positions, config=config, seed=seed, progress=False)
                    assert sv.history is not None
                    rows += _tidy(sv.history, setting.name, width, seed)
                    bar.update()
    reference = min(widths, key=lambda width: abs(math.log(width / TUNED_AT)))
    return CoordinateCheck(pd.DataFrame(rows), pd.DataFrame(models), reference)


def _listed(settings: Scaling | Sequence[Scaling] | None) -> tuple[Scaling, ...]:
    if settings is None:
        return SETTINGS
    return (settings,) if isinstance(settings, Scaling) else tuple(settings)


def _check(widths: Sequence[int], settings: Sequence[Scaling], steps: int, seeds: Sequence[int]) -> None:
    if len(set(widths)) < 3 or len(set(widths)) < len(widths):
        raise ValueError(f"the widths {list(widths)} must be at least three different ones: two always lie on a line")
    for width in widths:
        if width < HEAD or width % HEAD:
            raise ValueError(f"width {width}: it must be a multiple of {HEAD}, the size of a head")
    names = [setting.name for setting in settings]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the settings {names} must be at least one, each with a name of its own")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds {list(seeds)} must be at least one, each once")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")


def _tidy(history: pd.DataFrame, setting: str, width: int, seed: int) -> Iterator[dict[str, Any]]:
    sizes = history.assign(feature=history["vector_norm"] / math.sqrt(width))
    for name in (*QUANTITIES, "loss"):
        for step, value in zip(sizes["step"], sizes[name], strict=True):
            yield {"setting": setting, "width": width, "seed": seed, "step": step, "quantity": name, "value": value}


def _model_sizes(model: Bridge, data: SteeringData) -> dict[str, float]:
    """Root mean squares of residual stream and logits over real tokens."""
    (batch,) = batches(model, encode_data(model, data), len(data))
    seen = record(model, batch, None, [hook_name(LAYER)])
    residual, logits = (values[batch.token_mask] for values in (seen.values[hook_name(LAYER)], seen.logits))
    return {"residual": float(residual.square().mean().sqrt()), "logits": float(logits.square().mean().sqrt())}


# --- random models and data -----------------------------------------------------------------------------------------------


def random_model(width: int, seed: int) -> Bridge:
    """A Llama with random weights of size 1/sqrt(fan-in), embeddings of size 1 and a vocabulary of words."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=BLOCKS,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        head_dim=HEAD,
        max_position_embeddings=4 * (PROMPT + RESPONSE),
        tie_word_embeddings=False,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue] - every config takes it
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # transformers draws first weights of its own
        hf: Any = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if weight.ndim == 2:
                fan_in = 1 if "embed_tokens" in name else weight.shape[1]
                weight.normal_(generator=generator).div_(math.sqrt(fan_in))
    with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads the tokenizer from its files again
        return load_model(f"random-llama-{width}", hf_model=hf, tokenizer=_word_tokenizer(folder))


def _word_tokenizer(folder: str) -> Any:
    """One token per word, w3, w4, ..., saved in a folder and loaded from it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>"]
    words = {word: number for number, word in enumerate([*special, *map(_word, range(len(special), VOCABULARY))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", words["<bos>"])])
    marks = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _word(number: int) -> str:
    return f"w{number}"


def random_data(n: int, seed: int) -> SteeringData:
    """Prompts of random words; responses drawn from a few words, which are what there is to learn."""
    draw = random.Random(f"{seed}:widths")
    words = [_word(number) for number in range(3, VOCABULARY)]
    favoured = draw.sample(words, CONCEPT)
    rows = [
        {"prompt": " ".join(draw.choices(words, k=PROMPT)), "response": " " + " ".join(draw.choices(favoured, k=RESPONSE))}
        for _ in range(n)
    ]
    return SteeringData(rows, concept="a few words")


# --- slopes ---------------------------------------------------------------------------------------------------------------


def _fit(ratio: np.ndarray, seed: np.ndarray, size: np.ndarray) -> dict[str, float]:
    """Least squares of log size against log ratio with a level for each seed; `size` is the mean level's, at ratio 1."""
    if not (size > 0).all():
        return dict.fromkeys(("slope", "low", "high"), math.nan) | {"size": float(size.mean())}
    points = pd.DataFrame({"seed": seed, "x": np.log(ratio), "y": np.log(size)})
    centred = points - points.groupby("seed").transform("mean").assign(seed=0)
    spread = float((centred["x"] ** 2).sum())
    slope = float((centred["x"] * centred["y"]).sum()) / spread
    free = len(points) - points["seed"].nunique() - 1
    error = math.sqrt(float(((centred["y"] - slope * centred["x"]) ** 2).sum()) / free / spread)
    reach = t_quantile(free) * error
    level = float(points["y"].mean() - slope * points["x"].mean())
    return {"slope": slope, "low": slope - reach, "high": slope + reach, "size": math.exp(level)}
