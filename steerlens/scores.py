"""Ratings of a response. Definitions: AxBench (Wu et al. 2025), Bao et al. 2026 Sec. 5."""

from dataclasses import dataclass

HIGHEST = 2.0
RATINGS = ("concept", "instruct", "fluency")


@dataclass(frozen=True)
class Scores:
    """Three ratings of one response, each from 0 to 2, or None where the judge gave no usable answer (unscored)."""

    concept: int | float | None
    """Is the concept there: 0 absent, 1 weakly, 2 clearly."""
    instruct: int | float | None
    """Does the response answer the instruction: 0 unrelated, 1 partly, 2 yes."""
    fluency: int | float | None
    """0 broken, 1 stumbling, 2 fluent."""

    def __post_init__(self) -> None:
        for name in RATINGS:
            value = getattr(self, name)
            if isinstance(value, bool) or (value is not None and not 0 <= value <= HIGHEST):
                raise ValueError(f"the {name} rating is {value!r}; ratings go from 0 to 2, or None for unscored")

    @property
    def overall(self) -> float | None:
        """Harmonic mean of the three; 0 if any is 0; None if any is None."""
        ratings = [self.concept, self.instruct, self.fluency]
        known = [rating for rating in ratings if rating is not None]
        if len(known) < len(ratings):
            return None
        return 0.0 if min(known) == 0 else len(known) / sum(1 / rating for rating in known)


UNSCORED = Scores(None, None, None)
SCORES = (*(f"{name}_score" for name in RATINGS), "overall")
