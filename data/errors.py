"""Errors that users can act on."""


class Problem(ValueError):
    """An error in three lines: what is wrong and what is allowed, where, and how to fix it."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        what, where, fix = (printable(" ".join(str(line).split())) for line in self.args)
        return "\n".join((shortened(what), where, fix))  # a path has to stay whole


class DataError(Problem):
    """Images that are missing, damaged or not as requested."""


def printable(text: str) -> str:
    """`text` with unprintable characters escaped: file names can hold any bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(line: str) -> str:
    """A line of at most 300 characters, without its middle if it has more."""
    return line if len(line) <= 300 else f"{line[:195]} ... {line[-100:]}"
