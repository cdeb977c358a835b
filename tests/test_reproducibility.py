"""Seeds and digests stay what they are: a run that is made again, or goes on in an old folder, needs the same ones."""

import hashlib

import numpy as np

from steerlens.evaluation.axbench.benchmark import generation_seeds
from steerlens.reproducibility import derived_seed, digest, generator_for, json_digest, row_seeds, sha256


def test_seeds_are_what_they_always_were() -> None:
    assert row_seeds(7, 2) == [69242164989998029, 60693930503970480]
    assert generation_seeds(5, 4, 2) == [71993233665326299, 18467892468945513]
    assert derived_seed(3, "Hi: é") == 63590065980652040, "of a local judge's question"
    assert generator_for(42, "order").initial_seed() == derived_seed(42, "order") == 37591678388751370
    assert derived_seed(np.int64(7), 1) == row_seeds(7, 2)[1]


def test_digests_are_what_they_always_were() -> None:
    assert sha256("text") == hashlib.sha256(b"text").hexdigest()
    assert digest("Hi \ud800é") == "d48bd7009a97"
    assert json_digest(["a", {"b": 1, "a": None}]) == json_digest(["a", {"a": None, "b": 1}])
    assert json_digest(["a", {"b": 1, "a": None}]) == "39b9b93259458f34bdfe5f130b865c69b13a1a6c8ca9d7bff8fe69a480f98c9b"
