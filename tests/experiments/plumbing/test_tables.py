"""Tables in a terminal: no column is lost, and words stay whole where they can."""

import base64

import pytest
from rich.cells import cell_len

from experiments.plumbing.tables import Results, Rows, print_report

WIDE = Rows(
    ("strategy", *(f"column {i}" for i in range(6)), "path", "n"),
    [["as in most notebooks", *["55.6 ± 141.2"] * 6, "encoder.layers.encoder_layer_0", "2"]],
)


def test_a_table_that_is_too_wide_breaks_paths_and_loses_no_column(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_report([WIDE])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" 2") for line in lines) == 1
    assert {"notebooks", "141.2", "strategy", "column"} <= set(" ".join(lines).split())


@pytest.mark.parametrize("room", [40, 60, 70])
def test_a_narrow_terminal_breaks_words_and_loses_no_column(room, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(room))
    print_report([WIDE])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= room
    assert sum(line.endswith(" 2") for line in lines) == 1


def test_the_first_column_is_the_last_to_wrap(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    print_report(
        [Rows(("strategy", *"abc"), [["as in most notebooks", *["55.6 ± 141.2"] * 3]] * 2)]
    )
    assert capsys.readouterr().out.count("as in most notebooks") == 2
    print_report([Rows(("strategy", *"abcd"), [["as in most notebooks", *["55.6 ± 141.2"] * 4]])])
    assert "as in most notebooks" in capsys.readouterr().out


def test_letters_that_are_two_cells_wide_stay_on_their_line(monkeypatch, capsys):
    """Korean and Chinese letters: len() counts one, the terminal takes two."""
    monkeypatch.setenv("COLUMNS", "80")
    print_report([Rows(("class", "train"), [["고양이", "12"], ["犬", "3"]])])
    lines = capsys.readouterr().out.splitlines()
    assert sum("고양이" in line and "12" in line for line in lines) == 1
    assert len({cell_len(line) for line in lines}) == 1  # all end at the same place


def test_results_display_themselves_with_tables_images_and_escaped_names(tmp_path):
    figure = tmp_path / "curves.png"
    figure.write_bytes(b"a picture")
    table = Rows(("class", "n"), [["<b>&cat", "3"]])
    parts, notes = [table, "**Choose** <i>"], ['use it: <script>"x"']
    shown = Results([], parts, [figure], tmp_path, notes=notes)._repr_html_()
    assert table._repr_html_() in shown
    assert '<td style="text-align: left">&lt;b&gt;&amp;cat</td>' in shown
    assert '<td style="text-align: right">3</td>' in shown
    assert "<p>Choose &lt;i&gt;</p>" in shown
    assert f"data:image/png;base64,{base64.b64encode(b'a picture').decode()}" in shown
    assert "<p>use it: &lt;script&gt;&quot;x&quot;</p>" in shown
    assert not any(word in shown for word in ("<b>", "<i>", "<script>", "**"))
