"""Errors that users can act on, in three lines: what, where, fix."""


class ModelError(ValueError):
    """An unknown model, or a setting that the model does not have."""


class WeightsError(ValueError):
    """Missing, untrustworthy or incompatible weights."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def printable(line: object) -> str:
    """One non-empty line, without the line breaks and escape codes that a hostile file may hold."""
    text = " ".join(str(line).split()) or repr(line)
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
