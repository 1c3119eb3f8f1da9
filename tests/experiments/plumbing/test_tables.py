"""Tables in a terminal: no column is lost, and words stay whole where they can."""

from experiments.plumbing.tables import Rows, print_report


def test_a_table_that_is_too_wide_breaks_paths_and_loses_no_column(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    header = ("strategy", *(f"column {i}" for i in range(6)), "path", "n")
    line = ["as in most notebooks", *["55.6 ± 141.2"] * 6, "encoder.layers.encoder_layer_0", "2"]
    print_report([Rows(header, [line])])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" 2") for line in lines) == 1
    assert {"notebooks", "141.2", "strategy", "column"} <= set(" ".join(lines).split())
