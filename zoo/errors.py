"""Errors that a person can act on, in three lines: what, where, fix."""


class ModelError(ValueError):
    """A model that the zoo does not have, or a setting that the model does not."""


class WeightsError(ValueError):
    """Missing, untrustworthy or incompatible weights."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def printable(line: object) -> str:
    """One line that is not empty: names in a hostile file hold line breaks and escape codes."""
    text = " ".join(str(line).split()) or repr(line)
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
