"""Run the matrix and write docs/architectures.md: `python tests/architectures/make_table.py`."""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from expected import EXPECTED  # noqa: E402
from matrix import Outcome, outcome  # noqa: E402
from registry import Family, built, families  # noqa: E402

TABLE = HERE.parents[1] / "docs" / "architectures.md"
HEAD = """# Architectures

Every architecture that TransformerLens supports, as `python tests/architectures/make_table.py` found it. A tiny model with
random weights is saved, loaded with `load_model`, and compared with plain Hugging Face and one forward hook, row by row and
without a cache: greedy text and the logits behind it (unsteered, `p2+s2`, `s1`, `prompt`, `response`, `all`; as a left-padded
batch, alone, without a cache), log-probabilities of given responses, and two steps of training. After a slash: a variant.

How passes run (`steerlens.explain_speed`): plain = the Hugging Face modules themselves; in pieces = plain, and training
computes what lies below the edited block once and unembeds only what predicts a response; hooked = through TransformerLens's
hook points. Sampled text, losses and trained vectors of the first two equal those of the third.

| architecture | status | passes | why |
| --- | --- | --- | --- |
"""


def row(family: Family, found: Outcome | None) -> str:
    """One line of the table; None = no model is built."""
    if found is None:
        return f"| {family.name} | not built |  | {family.reason} |"
    known = EXPECTED.get(family.name)
    reasons = [found.detail, known.cause if known else ""]
    why = "<br>".join(reason for reason in reasons if reason)
    return f"| {family.name} | {found.status} | {found.passes} | {why.replace('|', ' ')} |"


def main() -> None:
    lines = []
    for family in built():
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(family, outcome(family, Path(folder))))
        print(lines[-1], flush=True)
    lines += [row(family, None) for family in families() if family.reason is not None]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
