"""steerlens: train, apply and understand steering vectors on TransformerLens.

    h <- h + factor * direction        (residual stream, chosen tokens, frozen model)

Public names stand here and nowhere else; each module loads on first use, so that importing costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import figures as figures
    from . import scaling as scaling
    from . import terrarium as terrarium
    from .activations import Activations as Activations
    from .activations import collect as collect
    from .attacks import Suppression as Suppression
    from .attacks import read_suppression as read_suppression
    from .attacks import suppression as suppression
    from .auditing import Audit as Audit
    from .auditing import audit as audit
    from .calibration import calibrate as calibrate
    from .calibration import mean_kl as mean_kl
    from .data import Example as Example
    from .data import SteeringData as SteeringData
    from .data import read_axbench as read_axbench
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .exploring import explore as explore
    from .extraction import extract as extract
    from .extraction import from_direction as from_direction
    from .extraction import sae_direction as sae_direction
    from .generation import generate as generate
    from .harness.scores import HarnessScores as HarnessScores
    from .harness.scores import harness_scores as harness_scores
    from .judges.llm import LLMJudge as LLMJudge
    from .judges.llm import ReplayJudge as ReplayJudge
    from .judges.local import LocalJudge as LocalJudge
    from .judges.rubrics import Rubric as Rubric
    from .judging import BatchJudge as BatchJudge
    from .judging import Judge as Judge
    from .judging import JudgeError as JudgeError
    from .judging import Question as Question
    from .judging import Scores as Scores
    from .judging import ScriptedJudge as ScriptedJudge
    from .judging import Verdict as Verdict
    from .live import LiveHistory as LiveHistory
    from .model import load_model as load_model
    from .passes import SteeringError as SteeringError
    from .prompting import SteeringPrompt as SteeringPrompt
    from .protocol.benchmark import axbench as axbench
    from .protocol.results import AxBenchResult as AxBenchResult
    from .reporting import report as report
    from .scaling import TrainConfig as TrainConfig
    from .scanning import LayerScan as LayerScan
    from .scanning import scan_layers as scan_layers
    from .selection import Selection as Selection
    from .selection import select_factor as select_factor
    from .selection import select_factors as select_factors
    from .steering import PerPrompt as PerPrompt
    from .steering import hook as hook
    from .steering import steer as steer
    from .sweeps.sweeping import Sweep as Sweep
    from .sweeps.sweeping import sweep as sweep
    from .tradeoffs import Frontier as Frontier
    from .tradeoffs import SideEffects as SideEffects
    from .tradeoffs import frontier as frontier
    from .tradeoffs import side_effects as side_effects
    from .training import loss as loss
    from .training import train as train
    from .training import train_many as train_many
    from .vector import SteeringVector as SteeringVector
    from .vector import VectorFileError as VectorFileError

_HOME = {
    "LLMJudge": "judges.llm",
    "ReplayJudge": "judges.llm",
    "LocalJudge": "judges.local",
    "Rubric": "judges.rubrics",
    "JudgeError": "judging",
    "Question": "judging",
    "Verdict": "judging",
    "BatchJudge": "judging",
    "axbench": "protocol.benchmark",
    "AxBenchResult": "protocol.results",
    "suppression": "attacks",
    "Suppression": "attacks",
    "read_suppression": "attacks",
    "harness_scores": "harness.scores",
    "HarnessScores": "harness.scores",
    "frontier": "tradeoffs",
    "Frontier": "tradeoffs",
    "side_effects": "tradeoffs",
    "SideEffects": "tradeoffs",
    "sweep": "sweeps.sweeping",
    "Sweep": "sweeps.sweeping",
    "Activations": "activations",
    "collect": "activations",
    "extract": "extraction",
    "from_direction": "extraction",
    "sae_direction": "extraction",
    "mean_kl": "calibration",
    "calibrate": "calibration",
    "Selection": "selection",
    "select_factor": "selection",
    "select_factors": "selection",
    "SteeringPrompt": "prompting",
    "LayerScan": "scanning",
    "scan_layers": "scanning",
    "analysis": "analysis",
    "figures": "figures",
    "explore": "exploring",
    "report": "reporting",
    "LiveHistory": "live",
    "scaling": "scaling",
    "terrarium": "terrarium",
    "Audit": "auditing",
    "audit": "auditing",
    "Example": "data",
    "SteeringData": "data",
    "read_axbench": "data",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "PerPrompt": "steering",
    "generate": "generation",
    "Judge": "judging",
    "Scores": "judging",
    "ScriptedJudge": "judging",
    "load_model": "model",
    "TrainConfig": "scaling",
    "SteeringError": "passes",
    "hook": "steering",
    "steer": "steering",
    "loss": "training",
    "train": "training",
    "train_many": "training",
    "SteeringVector": "vector",
    "VectorFileError": "vector",
}
__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll] - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerlens' has no attribute {name!r}")
    module = import_module(f".{_HOME[name]}", __name__)
    return module if name == _HOME[name] else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
