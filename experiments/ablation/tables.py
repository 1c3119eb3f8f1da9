"""Results as flat rows, one line of results.csv each, and as a table with a caption."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.listing import readable
from experiments.ablation import literature
from experiments.plumbing.results import no_results, read_csv, read_rows
from experiments.plumbing.stats import estimate
from experiments.plumbing.tables import Rows

FIELDS = {
    "network": str, "depth": int, "norm": str, "seed": int, "status": str, "parameters": int,
    "train_loss": float, "train_error": float, "test_loss": float, "test_error": float,
    "seconds": float, "source": str, "size": int, "train_images": int, "test_images": int,
    "choose": str, "normalize": str, "steps": int, "batch_size": int, "schedule": str,
    "lr": float, "weight_decay": float, "precision": str, "channels_last": str, "device": str,
    "threads": int, "python": str, "torch": str, "torchvision": str, "commit": str,
}  # fmt: skip


def flatten(row: dict) -> dict:
    """What row.json has in groups, as one dict with the keys of FIELDS."""
    run = row["run"]
    flat = {**run["settings"], **run["data"], **run, **row["versions"], **row}
    flat["train_images"], flat["test_images"] = row["images"]
    return {key: flat[key] for key in FIELDS}


def read_results(path: Path) -> list[dict]:
    """The rows of the row.json files below a folder, or else of its results.csv."""
    results = list(map(flatten, read_rows(readable(path)))) or read_csv(path, FIELDS)
    if not results:
        raise no_results(path)
    return results


def is_paper_protocol(result: dict) -> bool:
    """Section 4.2 in all that options change but precision: then published figures are shown."""
    return (
        result["source"] == "cifar10" and result["size"] == 32 and result["steps"] == 64_000
        and result["batch_size"] == 128 and result["schedule"] == "steps" and result["lr"] == 0.1
        and result["normalize"] == "pixel-mean" and result["train_images"] == 50_000
        and str(result["choose"]) == "False"
    )  # fmt: skip


def table(results: Sequence[dict]) -> Rows:
    """One line a network, mean ± 95 % CI over its seeds."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for result in results:
        groups[result["norm"] == "none", result["network"], result["depth"]].append(result)
    paper = all(is_paper_protocol(result) for result in results)
    header = ["network", "parameters", "train loss", "train error %", "test error %", "n"]
    header += ["paper", "replications"] if paper else []
    lines = []
    for (without_norm, network, depth), group in sorted(groups.items()):
        finished = [result for result in group if result["status"] == "finished"]
        name = f"{network}{depth}"
        line = [
            name + (" no BN" if without_norm else ""),
            f"{group[0]['parameters']:,}",
            estimate([result["train_loss"] for result in finished]).show(3),
            estimate([result["train_error"] for result in finished]).show(1, 100),
            estimate([result["test_error"] for result in finished]).show(2 if paper else 1, 100),
            f"{len(finished)}" + (f" of {len(group)}" if len(finished) < len(group) else ""),
        ]
        if paper:
            line += [literature.PAPER.get(name, "-"), literature.REPLICATIONS.get(name, "-")]
        lines.append(line)
    return Rows(header, lines, ("---", *["---:"] * 5, "---"))


def caption(results: Sequence[dict]) -> str:
    """What was done, in one sentence: data, steps, precision, machine, time."""
    first = results[0]
    seconds = sum(result["seconds"] for result in results)
    source = {"embedded": "embedded pictures", "cifar10": "CIFAR-10"}.get(
        first["source"], "a folder"
    )
    return (
        f"{source} at {first['size']}x{first['size']}, {first['train_images']:,} training and "
        f"{first['test_images']:,} test pictures, {first['steps']:,} steps of "
        f"{first['batch_size']}, last epoch; mean ± 95 % CI over n seeds; "
        f"{first['precision']}, {first['device']}, {seconds / 60:.1f} process-minutes."
    )
