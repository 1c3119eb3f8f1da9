"""What is shown of an ablation: tables, what was done, and the verdicts."""

from collections.abc import Sequence
from pathlib import Path

from experiments.ablation import transformers
from experiments.ablation.tables import caption, read_results, table
from experiments.ablation.verdict import verdict
from experiments.plumbing.tables import Part


def report(results: Sequence[dict], residuals: Sequence[dict]) -> list[Part]:
    """`residuals`: of transformers, the rows of collapse.csv."""
    if not residuals:
        question = "Do plain networks degrade more with depth?"
        return [table(results), caption(results), f"**{question} {verdict(results).sentence}**"]
    verdicts = transformers.verdicts(results, residuals)
    return [
        transformers.networks_table(results), caption(results),
        transformers.residuals_table(residuals), transformers.NOTE,
        *(f"**{sentence}**" for sentence in verdicts),
        transformers.slowing_table(residuals), transformers.RATIO,
    ]  # fmt: skip


def report_of(path: Path) -> list[Part]:
    """The report of finished runs in a folder, or of its results.csv."""
    results = read_results(path)
    of_transformers = any(result["norm"] == "layer" for result in results)
    folder = path if path.is_dir() else path.parent
    return report(results, transformers.read_residuals(folder) if of_transformers else [])
