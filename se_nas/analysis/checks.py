"""What is asked of a run beside its result, and answered with a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from se_nas.analysis.confirmation import Sentence
from se_nas.core.words import listed


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question, and its answer.

    ``name`` is what it is about, in a word or two; ``holds`` is whether what is asked for is the case, None where it
    could not be tested. ``text`` has the number that the answer rests on, or says why there is none; it can stand by
    itself.
    """

    name: str
    question: str
    holds: bool | None
    text: str
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> Sentence:
        """The answer as a sentence of a verdict."""
        return Sentence(text=self.text, numbers={**self.numbers})


def reasons_in_words(checks: Sequence[Check]) -> tuple[Sentence, ...]:
    """The checks that hold as reasons of a verdict; if none does, which were tested and which not."""
    if not checks:
        return ()
    holding = [check for check in checks if check.holds]
    if holding:
        return tuple(
            Sentence(text=f"Reason: {check.text[:1].lower()}{check.text[1:]}", numbers={**check.numbers})
            for check in holding
        )
    tested = listed([check.name for check in checks if check.holds is not None])
    open_ = listed([check.name for check in checks if check.holds is None])
    text = f"None of the usual reasons applies (tested: {tested or 'none'}{f'; not tested: {open_}' if open_ else ''})."
    return (Sentence(text=text),)
