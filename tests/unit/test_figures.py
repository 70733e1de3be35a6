"""Figures and case studies of reports: complete, readable without colour, the same bytes each time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from promptwise.errors import ConfigError, OutputError
from promptwise.reports.figures import _place
from promptwise.reports.reliability import reliability
from promptwise.reports.results import read_results
from promptwise.reports.write import write_report
from promptwise.strategies.knowledge import write_knowledge
from tests.unit.test_reports import cell, record, write_layout

SVG = "{http://www.w3.org/2000/svg}"


def texts(file: Path) -> list[str]:
    """The texts of an SVG file."""
    root = ElementTree.parse(file).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    """Two methods on two bases at three prompt lengths, one of whose runs is missing."""
    cells = []
    for base in ("prompt", "prefix"):
        for method in ("plain", "ours"):
            for length in (5, 10, 100):
                label = f"{base} {method}, length {length}"
                more = {"entry": f"{base} {method}", "grid": {"length": length}, "settings": {"base": base}}
                cells.append(cell("films", label, (0, 1), **more))
                for seed in (0, 1):
                    if (method, length) != ("ours", 100):
                        record("films", label, seed, 0.6 + length / 500).write(tmp_path / "records")
    figure = {"kind": "lines", "x": "length", "x_label": "prompt length K (vectors)", "panel": "base"}
    return write_layout(tmp_path, cells, figure=figure, published={"prompt plain, length 5": {"films": 62.0}})


def test_lines_have_a_panel_for_each_base(lengths: Path) -> None:
    """Axes, panels, methods, the majority class and the paper's points are named; formats hold the same figure."""
    files = {file.name for file in write_report(lengths)}
    assert files == {"figure.svg", "figure.pdf", "report.md", "report.tex", "report.html"}
    said = texts(lengths / "figure.svg")
    assert said.count("prompt length K (vectors)") == 2
    assert said.count("accuracy on test (%)") == 2
    assert {"films, prompt base", "films, prefix base", "majority class", "prompt plain, paper"} <= set(said)
    assert [said.count(f"{base} {method}") for base in ("prompt", "prefix") for method in ("plain", "ours")] == [1] * 4
    assert "standard deviation over 2 seeds" in (lengths / "report.md").read_text(encoding="utf-8")
    assert (lengths / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert "![" in (lengths / "report.md").read_text(encoding="utf-8")
    assert "figure.pdf" in (lengths / "report.tex").read_text(encoding="utf-8")
    page = (lengths / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<?xml" not in page


def test_a_share_of_tokens_is_drawn_at_the_tokens_that_were_read(tmp_path: Path) -> None:
    """Whatever strategy is the default: a share of 0.21 of 10 tokens is two of them, and a number is what it says."""
    cells = [
        cell("films", f"plain, {n}", (0,), entry="plain", grid={"read_tokens": n}, settings={"max_length": 10})
        for n in (0.21, 0.5, 7)
    ]
    for made in cells:
        record("films", made["method"], 0, 0.6).write(tmp_path / "records")
    figure = {"kind": "lines", "x": "read_tokens"}
    assert write_report(write_layout(tmp_path, cells, figure=figure))
    assert {_place(one, "read_tokens") for one in read_results(tmp_path).cells.values()} == {0.2, 0.5, 7}


def test_equal_scores_are_not_drawn_apart(tmp_path: Path) -> None:
    """An axis spans five points at least."""
    cells = [cell("films", f"plain, length {n}", (0,), entry="plain", grid={"length": n}) for n in (5, 10)]
    for made in cells:
        record("films", made["method"], 0, 0.5).write(tmp_path / "records")
    write_report(write_layout(tmp_path, cells, figure={"kind": "lines", "x": "length"}))
    # The ticks of the upright axis: the others are lengths.
    shares = [
        float(text) for text in texts(tmp_path / "figure.svg") if text.replace(".", "").isdigit() and float(text) > 10
    ]
    assert 4 <= max(shares) - min(shares) <= 8


def test_the_same_records_give_the_same_bytes(lengths: Path, tmp_path: Path) -> None:
    """A figure has no date and no random names."""
    write_report(lengths, tmp_path / "one")
    write_report(lengths, tmp_path / "other")
    for name in ("figure.svg", "figure.pdf", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_bars(tmp_path: Path) -> None:
    """A panel for each task and a bar for each method."""
    cells = [cell(task, method, (0, 1)) for task in ("films", "news") for method in ("plain", "ours")]
    for task in ("films", "news"):
        for seed in (0, 1):
            record(task, "plain", seed, 0.7).write(tmp_path / "records")
            record(task, "ours", seed, 0.8).write(tmp_path / "records")
    write_report(write_layout(tmp_path, cells, figure={"kind": "bars"}))
    said = texts(tmp_path / "figure.svg")
    assert {"films", "news"} <= set(said)
    assert said.count("plain") == said.count("ours") == 2


def test_a_topics_map_names_each_topic(tmp_path: Path) -> None:
    """The legend has the topics with the number of their tokens; an experiment without tasks has no table."""
    topic_of = torch.arange(90) % 3
    topic_of[:6] = -1
    write_knowledge(
        tmp_path / "known",
        about={"topics": ["art", "sport", "war"], "vocabulary": ""},
        ids=torch.arange(90),
        rows=torch.randn(90, 8, generator=torch.Generator().manual_seed(0)) + topic_of.unsqueeze(1),
        topic_of=topic_of,
        networks={},
        outputs={},
    )
    figure = {"kind": "topics map", "knowledge": "topics"}
    write_report(write_layout(tmp_path, [], figure=figure, pretrained={"topics": "known"}))
    assert {"art (28)", "sport (28)", "war (28)"} <= set(texts(tmp_path / "figure.svg"))
    assert "|---" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_cases_are_marked_word_by_word(tmp_path: Path) -> None:
    """Markdown has the strongest words with their numbers; HTML marks each word, and signs differ without colour."""
    write_layout(tmp_path, [], figure={"kind": "case study"})
    said = {
        "label": "good",
        "probability": 0.9,
        "words": ["a", "<fine>", "mess"],
        "scores": [0.1, 2.0, -1.0],
        "error": 0.01,
    }
    case = {"task": "films", "text": "a <fine> mess", "text_pair": None, "label": "bad", "by": {"ours": said}}
    (tmp_path / "cases.json").write_text(json.dumps({"runs": ["filmsours0"], "cases": [case]}), encoding="utf-8")
    write_report(tmp_path)
    assert "## Cases" not in (tmp_path / "report.md").read_text(encoding="utf-8"), (
        "of runs that are not the experiment's"
    )
    record("films", "ours", 0, 0.9).write(tmp_path / "records")
    write_layout(tmp_path, [cell("films", "ours", (0,))], figure={"kind": "case study"})
    write_report(tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| ours | good 0.90 (wrong) | <fine> +2.00, mess -1.00, a +0.10 |" in lines
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<span") == 3
    assert "&lt;fine&gt;" in page
    assert "3.0px solid" in page
    assert "1.5px dashed" in page


def test_messages(tmp_path: Path) -> None:
    """An unknown kind, and a figure of a setting that no cell has."""
    write_layout(tmp_path, [], figure={"kind": "pie"})
    with pytest.raises(ConfigError, match=r"'pie'.*bars"):
        write_report(tmp_path)
    assert (tmp_path / "report.md").is_file(), "the tables do not wait for the figure"
    write_layout(tmp_path, [], figure={"kind": "lines", "x": "length"})
    with pytest.raises(OutputError, match="'length'"):
        write_report(tmp_path)


def test_a_reliability_plot_where_calibration_was_measured(tmp_path: Path) -> None:
    """Seeds are put together and weighed by rows; records of earlier versions have no plot."""
    cells = [cell("films", name, (0, 1)) for name in ("plain", "ours & theirs", "older")]
    layout = write_layout(tmp_path, cells)
    for method in ("plain", "ours & theirs", "older"):
        for seed in (0, 1):
            made = record("films", method, seed, 0.7)
            if method != "older":
                made = replace(made, metrics={**made.metrics, "calibration": calibration(seed)})
            made.write(tmp_path / "records")
    names = {file.name for file in write_report(layout)}
    assert names == {"reliability.svg", "reliability.pdf", "report.md", "report.tex", "report.html"}
    said = texts(tmp_path / "reliability.svg")
    assert {"films, plain", "films, ours & theirs"} <= set(said)
    assert "films, older" not in said
    assert said.count("before, ECE 0.300") == said.count("after, ECE 0.050") == 2
    assert said.count("mean confidence") == said.count("accuracy") == 2
    results = read_results(layout)
    # 30 and 10 rows of the first bin; the second has too few.
    assert reliability(results.cells["films", "plain"], "after").points == (
        (pytest.approx(0.55), pytest.approx((30 * 0.5 + 10 * 0.7) / 40)),
    )
    assert "15 bins of equal width" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "(reliability.svg)" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "{reliability.pdf}" in (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<svg") == 1
    again = {file.name: file.read_bytes() for file in write_report(layout, tmp_path / "again")}
    assert again["reliability.svg"] == (tmp_path / "reliability.svg").read_bytes()


def calibration(seed: int) -> dict[str, object]:
    """What a run says of its probabilities: two bins."""
    rows, right = ([30, 4], 0.5) if seed == 0 else ([10, 5], 0.7)
    bins = {"rows": rows, "confidence": [0.55, 0.9], "accuracy": [right, 0.8]}
    before, after = (0.2, 0.4)[seed], (0.04, 0.06)[seed]
    scores = {"brier": 0.5, "nll": 1.0, "bins": bins}
    test = {"before": {**scores, "ece": before}, "after": {**scores, "ece": after}}
    return {"temperature": 2.0, "validation": {}, "test": test}
