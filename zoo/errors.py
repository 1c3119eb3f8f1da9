"""Errors that a person can act on, in three lines: what, where, fix."""


class ModelError(ValueError):
    """A model that the zoo does not have, or a setting that the model does not."""


class WeightsError(ValueError):
    """Weights that cannot be had, cannot be trusted, or do not fit the model."""

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        # Names in a hostile file may hold line breaks and escape codes; none reach the terminal.
        lines = (" ".join(str(line).split()) for line in self.args)
        return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
