"""Errors that a person can act on."""


class Problem(ValueError):
    """Three lines: what was given and what is allowed, where, and what to do."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        return "\n".join(" ".join(str(line).split()) for line in self.args)


class DataError(Problem):
    """Pictures that are missing, damaged or not what was asked for."""
