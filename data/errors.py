"""Errors that users can act on."""


class Problem(ValueError):
    """An error in three lines: what is wrong and what is allowed, where, and how to fix it."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        return "\n".join(printable(" ".join(str(line).split())) for line in self.args)


class DataError(Problem):
    """Images that are missing, damaged or not as requested."""


def printable(text: str) -> str:
    """`text` with unprintable characters escaped: file names can hold any bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
