"""steerlens: train, apply and understand steering vectors on TransformerLens.

    h <- h + factor * direction        (residual stream, chosen tokens, frozen model)

Public names stand here and nowhere else; each module loads on first use, so that importing costs next to nothing. `dir` lists
what people type; the classes of what they are given (`UNLISTED`) can be imported from here too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import figures as figures
    from . import terrarium as terrarium
    from .analysis.sae.autoencoder import SAE as SAE
    from .analysis.sae.formats import load_sae as load_sae
    from .data import DataError as DataError
    from .data import Example as Example
    from .data import SteeringData as SteeringData
    from .data import read_axbench as read_axbench
    from .display.explorer import Explorer as Explorer
    from .display.explorer import explore as explore
    from .display.report_page import report as report
    from .evaluation.axbench.benchmark import axbench as axbench
    from .evaluation.axbench.results import AxBenchResult as AxBenchResult
    from .evaluation.calibration import calibrate as calibrate
    from .evaluation.calibration import mean_kl as mean_kl
    from .evaluation.factor_selection import Selection as Selection
    from .evaluation.factor_selection import Selections as Selections
    from .evaluation.factor_selection import select_factor as select_factor
    from .evaluation.factor_selection import select_factors as select_factors
    from .evaluation.harness.scores import HarnessScores as HarnessScores
    from .evaluation.harness.scores import harness_scores as harness_scores
    from .evaluation.layer_scan import LayerScan as LayerScan
    from .evaluation.layer_scan import scan_layers as scan_layers
    from .evaluation.pareto import Frontier as Frontier
    from .evaluation.pareto import frontier as frontier
    from .evaluation.scoring import Evaluation as Evaluation
    from .evaluation.scoring import accuracy as accuracy
    from .evaluation.scoring import evaluate as evaluate
    from .evaluation.side_effect_measures import SideEffects as SideEffects
    from .evaluation.side_effect_measures import side_effects as side_effects
    from .evaluation.suppression_attack import Attacked as Attacked
    from .evaluation.suppression_attack import Suppression as Suppression
    from .evaluation.suppression_attack import forbid as forbid
    from .evaluation.suppression_attack import read_suppression as read_suppression
    from .evaluation.suppression_attack import suppression as suppression
    from .extraction import extract as extract
    from .extraction import extract_layers as extract_layers
    from .extraction import from_direction as from_direction
    from .extraction import sae_direction as sae_direction
    from .judges.base import BatchJudge as BatchJudge
    from .judges.base import Judge as Judge
    from .judges.base import JudgeError as JudgeError
    from .judges.base import Question as Question
    from .judges.base import ScriptedJudge as ScriptedJudge
    from .judges.base import Verdict as Verdict
    from .judges.llm import LLMJudge as LLMJudge
    from .judges.llm import ReplayJudge as ReplayJudge
    from .judges.local import LocalJudge as LocalJudge
    from .judges.rubrics import Rubric as Rubric
    from .model.activations import Activations as Activations
    from .model.activations import collect as collect
    from .model.frozen import SteeringError as SteeringError
    from .model.loading import load_model as load_model
    from .model.speed import explain_speed as explain_speed
    from .scores import Scores as Scores
    from .steering.edit_audit import Audit as Audit
    from .steering.edit_audit import audit as audit
    from .steering.generation import generate as generate
    from .steering.hooks import PerPrompt as PerPrompt
    from .steering.hooks import hook as hook
    from .steering.hooks import steer as steer
    from .steering.neutral import with_neutral as with_neutral
    from .steering.steering_prompt import SteeringPrompt as SteeringPrompt
    from .sweeps.runner import Sweep as Sweep
    from .sweeps.runner import sweep as sweep
    from .training import scaling as scaling
    from .training.callbacks import Step as Step
    from .training.live_history import LiveHistory as LiveHistory
    from .training.loop import TrainingError as TrainingError
    from .training.loop import train as train
    from .training.loop import train_layers as train_layers
    from .training.loop import train_many as train_many
    from .training.objective_value import loss as loss
    from .training.scaling import TrainConfig as TrainConfig
    from .vector import SteeringVector as SteeringVector
    from .vector import VectorFileError as VectorFileError

_HOME = {
    "analysis": "analysis",
    "SAE": "analysis.sae.autoencoder",
    "load_sae": "analysis.sae.formats",
    "DataError": "data",
    "Example": "data",
    "SteeringData": "data",
    "read_axbench": "data",
    "Explorer": "display.explorer",
    "explore": "display.explorer",
    "report": "display.report_page",
    "axbench": "evaluation.axbench.benchmark",
    "AxBenchResult": "evaluation.axbench.results",
    "calibrate": "evaluation.calibration",
    "mean_kl": "evaluation.calibration",
    "Selection": "evaluation.factor_selection",
    "Selections": "evaluation.factor_selection",
    "select_factor": "evaluation.factor_selection",
    "select_factors": "evaluation.factor_selection",
    "HarnessScores": "evaluation.harness.scores",
    "harness_scores": "evaluation.harness.scores",
    "LayerScan": "evaluation.layer_scan",
    "scan_layers": "evaluation.layer_scan",
    "Frontier": "evaluation.pareto",
    "frontier": "evaluation.pareto",
    "Evaluation": "evaluation.scoring",
    "accuracy": "evaluation.scoring",
    "evaluate": "evaluation.scoring",
    "SideEffects": "evaluation.side_effect_measures",
    "side_effects": "evaluation.side_effect_measures",
    "Attacked": "evaluation.suppression_attack",
    "Suppression": "evaluation.suppression_attack",
    "forbid": "evaluation.suppression_attack",
    "read_suppression": "evaluation.suppression_attack",
    "suppression": "evaluation.suppression_attack",
    "extract": "extraction",
    "extract_layers": "extraction",
    "from_direction": "extraction",
    "sae_direction": "extraction",
    "figures": "figures",
    "BatchJudge": "judges.base",
    "Judge": "judges.base",
    "JudgeError": "judges.base",
    "Question": "judges.base",
    "ScriptedJudge": "judges.base",
    "Verdict": "judges.base",
    "LLMJudge": "judges.llm",
    "ReplayJudge": "judges.llm",
    "LocalJudge": "judges.local",
    "Rubric": "judges.rubrics",
    "Activations": "model.activations",
    "collect": "model.activations",
    "load_model": "model.loading",
    "explain_speed": "model.speed",
    "Scores": "scores",
    "Audit": "steering.edit_audit",
    "audit": "steering.edit_audit",
    "generate": "steering.generation",
    "PerPrompt": "steering.hooks",
    "hook": "steering.hooks",
    "steer": "steering.hooks",
    "SteeringError": "model.frozen",
    "with_neutral": "steering.neutral",
    "SteeringPrompt": "steering.steering_prompt",
    "Sweep": "sweeps.runner",
    "sweep": "sweeps.runner",
    "terrarium": "terrarium",
    "Step": "training.callbacks",
    "LiveHistory": "training.live_history",
    "TrainingError": "training.loop",
    "train": "training.loop",
    "train_layers": "training.loop",
    "train_many": "training.loop",
    "loss": "training.objective_value",
    "TrainConfig": "training.scaling",
    "scaling": "training.scaling",
    "SteeringVector": "vector",
    "VectorFileError": "vector",
}
_MODULES = {"analysis", "figures", "scaling", "terrarium"}
UNLISTED = {
    "Activations",
    "Attacked",
    "Audit",
    "BatchJudge",
    "Evaluation",
    "Explorer",
    "Frontier",
    "HarnessScores",
    "LayerScan",
    "Question",
    "SAE",
    "Selection",
    "Selections",
    "SideEffects",
    "Suppression",
    "Verdict",
}
"""What functions return and what judges are given: for annotations, and not for typing."""
_LISTED = sorted(_HOME.keys() - UNLISTED, key=lambda name: (name[0].isupper(), name))
__all__ = ["__version__", *_LISTED]  # pyright: ignore[reportUnsupportedDunderAll] - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerlens' has no attribute {name!r}")
    module = import_module(f".{_HOME[name]}", __name__)
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
