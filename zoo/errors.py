"""Errors that users can act on, in three lines: what, where, fix."""


class ModelError(ValueError):
    """An unknown model, or a setting that the model does not have."""


class WeightsError(ValueError):
    """Missing, untrustworthy or incompatible weights."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        what, where, fix = map(printable, self.args)
        return "\n".join((shortened(what), where, fix))  # a path has to stay whole


def printable(line: object) -> str:
    """One non-empty line, without the line breaks and escape codes that a hostile file may hold."""
    text = " ".join(str(line).split()) or repr(line)
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]


def shortened(line: str) -> str:
    """A line of at most 300 characters, without its middle if it has more."""
    return line if len(line) <= 300 else f"{line[:195]} ... {line[-100:]}"
