"""What a question needs besides its measurement: answers, their scope, pooling by seed, report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from experiments.anatomy.options import Question
from experiments.anatomy.subjects import STOCHASTIC, Subject
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import FINDINGS, read_csv
from experiments.plumbing.stats import Interval, mean_over
from experiments.plumbing.tables import Part, Rows

Found = Mapping[Subject, dict[str, Any]]  # of each network, what a question measured
Pairs = Sequence[tuple[Subject, dict[str, Any]]]  # the same, of the networks of one group


class Finding(NamedTuple):
    """An answer, and the evidence for it."""

    claim: str
    of: str  # networks, depth, training
    answer: str  # "yes", "no", "cannot tell"
    evidence: str  # numbers with their intervals, n of what, and why this is the answer


def by_group(found: Found) -> dict[str, Pairs]:
    """The networks that differ in their seed only, in order."""
    groups = defaultdict(list)
    for subject, result in found.items():
        groups[subject.group].append((subject, result))
    return dict(groups)


def pooled(intervals: Sequence[Interval]) -> Interval:
    """One network's own interval; of several seeds, the interval over the seeds."""
    if len(intervals) == 1:
        return intervals[0]
    return mean_over([interval.value for interval in intervals], "seeds")


def by_seed(one: Pairs, other: Pairs) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The results of networks of two groups that share a seed."""
    return [(a, b) for s, a in one for t, b in other if s.seed == t.seed]


def errors_of(pairs: Pairs) -> dict[str, float]:
    """For judge_claim: the error of every network."""
    return {subject.name: subject.error for subject, _ in pairs}


def scope(subject: Subject) -> str:
    """The network and its training, in words."""
    return f"{subject.group}, {subject.budget}"


def deepest_pair(subjects: Sequence[Subject]) -> list[Subject]:
    """Plain and residual networks, all seeds, of the largest depth that one family has of both.

    If there is none, the deepest networks.
    """
    plain, skips = ({(s.depth, s.family) for s in subjects if s.plain is kind}
                    for kind in (True, False))  # fmt: skip
    both = plain & skips
    usual = {(n, family) for n, family in plain | skips if not family.endswith(f", {STOCHASTIC}")}
    most = max(both or usual or plain | skips, default=None)
    chosen = [s for s in subjects if (s.depth, s.family) == most]
    return sorted(chosen, key=lambda subject: not subject.plain)


COLUMNS = ("question", *Finding._fields)  # of FINDINGS


def answers_in(folder: Path) -> list[dict[str, str]]:
    """The rows of FINDINGS in a folder of results; none if there is no such file."""
    path = folder / FINDINGS
    fix = "move this file away, and ask the questions again: what was measured is kept"
    rows = read_csv(path, dict.fromkeys(COLUMNS, str), fix) if path.exists() else []
    if any(None in row.values() or row["question"] not in get_args(Question) for row in rows):
        raise ResultsError("this file is incomplete", path, fix)
    return rows


def report_of(folder: Path) -> list[Part]:
    """The answers in a folder of results: the evidence for each, then all of them in a table."""
    if not (rows := answers_in(folder)):
        return ["No claim can be judged with these networks alone."]
    lines = [[row["claim"], row["of"], row["answer"]] for row in rows]
    text = [f"**{r['claim']}: {r['answer']}.** {r['of']}. {r['evidence']}" for r in rows]
    return [*text, Rows(("claim", "networks", "answer"), lines, ("---",))]
