"""Reports: numbers from records alone, gaps in sight, and marks that mean what they say."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptwise.errors import OutputError
from promptwise.experiments.record import Record
from promptwise.reports.render import latex, markdown, page
from promptwise.reports.results import read_results
from promptwise.reports.significance import Differences, Spread, bootstrap
from promptwise.reports.table import MEAN, NO_BETTER, NOT_SIGNIFICANT, SIZES, make_table
from promptwise.reports.write import write_report

TASKS, METHODS, SEEDS = ("films", "news_1"), ("plain", "ours & theirs"), (0, 1, 2)
EXAMPLES = 400
LABELS = "01" * (EXAMPLES // 2)
TWO = (("plain", None), ("ours", "plain"))


def choices(right: float, seed: int) -> str:
    """Predictions of which a share is right."""
    generator = np.random.default_rng(seed)
    return "".join(label if generator.random() < right else "10"[int(label)] for label in LABELS)


def record(task: str, method: str, seed: int, right: float) -> Record:
    """A finished record."""
    packed = choices(right, 100 * seed + len(method))
    accuracy = sum(map(str.__eq__, packed, LABELS)) / EXAMPLES
    metrics: dict[str, Any] = {
        "test": {"accuracy": accuracy},
        "validation": {"accuracy": accuracy},
        "majority": 0.5,
        "parameters": {"tuned": 1000 + len(task), "backbone": 10**6, "share": 0.001},
        "data": {"rows": {"train": 50, "validation": 5, "test": EXAMPLES}},
        "time": {"train_s": 12.4, "total_s": 13.0},
        "backbone": {"name": "tiny"},
        "config": {"length": 4, "epochs": 2.0},
    }
    return Record(
        id=run_of(task, method, seed),
        status="finished",
        experiment="trial",
        task=task,
        method=method,
        purpose="result",
        seed=seed,
        lr=0.01,
        settings={},
        metrics=metrics,
        choices=packed,
        labels=LABELS,
    )


def run_of(task: str, method: str, seed: int) -> str:
    """The id of a run."""
    return re.sub(r"\W", "", f"{task}{method}{seed}")


def cell(task: str, method: str, seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    """A cell as the file of an experiment has it."""
    runs = {str(seed): run_of(task, method, seed) for seed in seeds}
    given = {"task": task, "method": method, "seeds": list(seeds), "runs": runs}
    return {**given, "against": None, "entry": method, "grid": {}, "settings": {}, **more}


def write_layout(folder: Path, cells: list[dict[str, Any]], **more: Any) -> Path:
    """Write the file of an experiment."""
    empty = {"figure": {}, "published": {}, "pretrained": {}}
    layout = {"name": "trial", "description": "A trial.", "cells": cells, **empty, **more}
    (folder / "experiment.json").write_text(json.dumps(layout), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment with a large difference on one task, none on the other, a failed and a missing run."""
    cells = [
        cell(task, method, SEEDS, against=None if method == "plain" else "plain")
        for task in TASKS
        for method in METHODS
    ]
    cells[-1]["runs"]["1"] = "failed"
    write_layout(tmp_path, cells)
    for seed in SEEDS:
        record("films", "plain", seed, 0.6).write(tmp_path / "records")
        record("films", "ours & theirs", seed, 0.9).write(tmp_path / "records")
        record("news_1", "plain", seed, 0.7).write(tmp_path / "records")
    record("news_1", "ours & theirs", 0, 0.7).write(tmp_path / "records")
    failed = Record(
        id="failed",
        status="failed",
        experiment="trial",
        task="news_1",
        method="ours & theirs",
        purpose="result",
        seed=1,
        lr=0.01,
        settings={},
        error="no memory",
    )
    failed.write(tmp_path / "records")
    return tmp_path


def add_to_layout(folder: Path, **more: Any) -> None:
    """Change what the experiment's file said."""
    file = folder / "experiment.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **more}), encoding="utf-8")


def test_means_and_spreads_are_those_of_the_records(folder: Path) -> None:
    """A cell shows the mean and the standard deviation of its seeds in percent; the best of a column is marked."""
    results = read_results(folder)
    scores = results.cells["films", "plain"].scores
    table = make_table(results)
    rows = dict(table.rows)
    films = rows["plain"][0]
    assert films.text == f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}"
    assert not films.best
    assert rows["ours & theirs"][0].best
    assert rows["majority class"][0].text == "50.0"
    assert table.columns[:2] == TASKS
    assert table.sizes[0] == "accuracy; 50 / 5 / 400; 3 seeds"
    assert table.sizes[1].endswith("; 1 to 3 seeds")
    assert set(table.sizes[2:]) == {""}
    assert len(table.sizes) == len(table.columns)
    assert rows["plain"][3].text == "1,005 to 1,006 (0.10%)"


def test_gaps_are_visible(folder: Path) -> None:
    """Failed and missing runs of a cell are counted in it, and a cell without results has a dash."""
    entry = dict(make_table(read_results(folder)).rows)["ours & theirs"][1]
    assert entry.note == "1 seed; 1 failed, 1 missing"
    notes = make_table(read_results(folder)).notes
    assert notes[-1] == "Failed: news_1, ours & theirs, seed 1: no memory"
    assert any("over 1 to 3 seeds;" in note for note in notes)
    for file in (folder / "records").glob("films*plain*"):
        file.unlink()
    empty = dict(make_table(read_results(folder)).rows)["plain"][0]
    assert (empty.text, empty.note) == ("-", "3 missing")


def test_the_mark_is_on_differences_that_are_not_significant(folder: Path) -> None:
    """Thirty points on 400 examples are significant, and nothing on one seed of equal methods is."""
    table = make_table(read_results(folder))
    rows = dict(table.rows)
    assert NOT_SIGNIFICANT not in rows["ours & theirs"][0].marks
    assert NOT_SIGNIFICANT in rows["ours & theirs"][1].marks
    found = {task: comparison for task, _, _, comparison in table.comparisons}
    assert found["films"].significant
    assert found["films"].seeds == 3
    assert found["news_1"].seeds == 1


def test_a_difference_that_cannot_be_tested_is_marked(folder: Path) -> None:
    """An opponent without a result says nothing, on its task and on the mean of the tasks."""
    for file in (folder / "records").glob("films*plain*"):
        file.unlink()
    table = make_table(read_results(folder))
    assert dict(table.rows)["ours & theirs"][0].marks == NOT_SIGNIFICANT
    assert NOT_SIGNIFICANT in dict(table.rows)["ours & theirs"][2].marks
    assert dict(table.rows)["plain"][1].marks == ""
    assert any(note.startswith(NOT_SIGNIFICANT) for note in table.notes)


def test_what_is_no_better_than_the_majority_is_marked(tmp_path: Path) -> None:
    """A method that is right as often as the most frequent class is marked on every task, a better one is not."""
    labels = "1" * 240 + "0" * 160
    for method, wrong in (("chance", 160), ("better", 60)):
        for seed in (0, 1):
            one = record("films", method, seed, 0.6)
            said = "".join(label if place >= wrong else "10"[int(label)] for place, label in enumerate(labels))
            said = "1" * 400 if method == "chance" else said
            replace(one, choices=said, labels=labels).write(tmp_path / "records")
    write_layout(tmp_path, [cell("films", method, (0, 1)) for method in ("chance", "better")])
    table = make_table(read_results(tmp_path))
    marks = {method: entries[0].marks for method, entries in table.rows[1:]}
    assert marks == {"chance": NO_BETTER, "better": ""}
    assert any(NO_BETTER in note for note in table.notes)


def test_nothing_from_one_seed_is_better_than_the_majority(tmp_path: Path) -> None:
    """Forty points on 400 examples are not, as nobody knows the next seed; the same points of two seeds are."""
    write_layout(tmp_path, [cell("films", "alone", (0,)), cell("films", "twice", (0, 1))])
    for method, seeds in (("alone", (0,)), ("twice", (0, 1))):
        for seed in seeds:
            record("films", method, seed, 0.9).write(tmp_path / "records")
    table = make_table(read_results(tmp_path))
    assert {method: entries[0].marks for method, entries in table.rows[1:]} == {"alone": NO_BETTER, "twice": ""}
    (note,) = [note for note in table.notes if note.startswith(NO_BETTER)]
    assert "one seed" in note


def test_the_mean_of_the_tasks(folder: Path) -> None:
    """It weighs each task alike, whatever its seeds, and is compared with the opponent's; a gap leaves it open."""
    results = read_results(folder)
    table = make_table(results)
    rows = dict(table.rows)
    assert table.columns[2] == MEAN
    cells = [results.cells[task, "ours & theirs"] for task in TASKS]
    assert [len(one.scores) for one in cells] == [3, 1]
    assert rows["ours & theirs"][2].text == f"{100 * np.mean([np.mean(one.scores) for one in cells]):.1f}"
    assert rows["ours & theirs"][2].best
    assert rows["majority class"][2].text == "50.0"
    found = {task: comparison for task, _, _, comparison in table.comparisons}
    assert found[MEAN].difference == pytest.approx((found["films"].difference + found["news_1"].difference) / 2)
    assert found[MEAN].p < 0.05
    assert not found[MEAN].significant, "one task has one seed"
    assert (found[MEAN].seeds, found[MEAN].examples) == (1, 2 * EXAMPLES)
    for file in (folder / "records").glob("news_1plain*"):
        file.unlink()
    table = make_table(read_results(folder))
    assert dict(table.rows)["plain"][2].text == "-"
    assert MEAN not in {task for task, *_ in table.comparisons}


def test_unlike_metrics_have_no_mean(folder: Path) -> None:
    """Accuracy and F1 are not averaged, and one task is no mean."""
    for file in (folder / "records").glob("news_1*"):
        one = json.loads(file.read_text(encoding="utf-8"))
        if one["metrics"]:
            one["metrics"]["test"] = {"macro_f1": one["metrics"]["test"]["accuracy"]}
        file.write_text(json.dumps(one), encoding="utf-8")
    assert MEAN not in make_table(read_results(folder)).columns


def test_records_of_other_settings_are_left_out(folder: Path) -> None:
    """A record of the same method, task and seed under another id, from before a change of settings, is not shown."""
    before = make_table(read_results(folder))
    replace(record("films", "plain", 0, 0.99), id="another").write(folder / "records")
    assert make_table(read_results(folder)) == before


def errors_of(folder: Path, figures: Mapping[str, float], constant: float) -> None:
    """An experiment on a task of numbers whose metric is the mean absolute error, by method."""
    write_layout(folder, [cell("films", method, (0, 1), against="good") for method in figures])
    for method, error in figures.items():
        for seed in (0, 1):
            scores = [-error - 0.01 * seed] * EXAMPLES
            made = record("films", method, seed, 0.5)
            changed = {
                "test": {"mae": -scores[0]},
                "majority": constant,
                "problem": "regression",
                "constant": {"test_scores": [-constant] * EXAMPLES},
                "data": {**made.metrics["data"], "fingerprint": "stars"},
            }
            replace(made, metrics={**made.metrics, **changed}, choices="", labels="", scores=scores).write(
                folder / "records"
            )


def test_errors_are_in_their_units_and_the_least_is_the_best(tmp_path: Path) -> None:
    """Stars are no percent, a large error is not in bold, and one above the constant answer's is marked."""
    errors_of(tmp_path, {"good": 0.45, "worse": 0.75, "bad": 12.5}, constant=1.25)
    table = make_table(read_results(tmp_path))
    rows = {method: entries[0] for method, entries in table.rows}
    assert rows["good"].text == "0.455 ± 0.007071"
    assert rows["majority class"].text == "1.25"
    assert [method for method, entry in rows.items() if entry.best] == ["good"]
    assert [method for method, entry in rows.items() if NO_BETTER in entry.marks] == ["bad"]
    assert "(mae in the units of the labels)" in table.notes[0]
    assert "| films | worse | good | -0.3 |" in markdown(table)
    assert write_report(tmp_path)


def test_what_cannot_be_tested_against_the_majority_is_marked(tmp_path: Path) -> None:
    """Records of more than 36 classes have no predictions; below the majority's accuracy none is in bold either."""
    write_layout(tmp_path, [cell("films", "one", (0, 1))])
    for seed in (0, 1):
        made = record("films", "one", seed, 0.5)
        scored = {**made.metrics, "test": {"accuracy": 0.1}, "majority": 0.3}
        replace(made, metrics=scored, choices="", labels="").write(tmp_path / "records")
    (entry, *_) = dict(make_table(read_results(tmp_path)).rows)["one"]
    assert (entry.best, entry.marks) == (False, NO_BETTER)


def test_a_note_says_where_tests_are_of_accuracy(folder: Path) -> None:
    """The table may have another metric of classes first."""
    assert not any("tests are of accuracy" in note for note in make_table(read_results(folder)).notes)
    for file in (folder / "records").glob("films*"):
        one = json.loads(file.read_text(encoding="utf-8"))
        one["metrics"]["test"] = {"macro_f1": one["metrics"]["test"]["accuracy"]}
        file.write_text(json.dumps(one), encoding="utf-8")
    note = "Where the table has macro_f1, tests are of accuracy."
    assert note in make_table(read_results(folder)).notes
    for file in (folder / "records").glob("films*"):
        one = json.loads(file.read_text(encoding="utf-8"))
        one["metrics"] |= {"problem": "multi_label_classification"}
        file.write_text(json.dumps(one), encoding="utf-8")
    assert note not in make_table(read_results(folder)).notes, "of several labels the score of a row is tested"


def test_published_figures_are_marked_as_theirs(folder: Path) -> None:
    """The paper's figure stands in the small print, and a note says whose it is."""
    add_to_layout(folder, published={"plain": {"films": 62.0}})
    table = make_table(read_results(folder))
    assert dict(table.rows)["plain"][0].note == "paper 62"
    assert any("theirs and not ours" in note for note in table.notes)


def matrix(one: np.ndarray, other: np.ndarray, spread: Spread | None = None) -> Differences:
    """Differences of correctness ``[seeds, examples]``, each example by itself."""
    values = one.astype(float) - other.astype(float)
    own = values.mean(1).var(ddof=1)
    variance = own if spread is None else max(own, 2 * spread.variance)
    freedom = len(values) - 1 if spread is None else spread.freedom
    return Differences(values, np.ones(values.shape[1], dtype=int), variance / len(values), freedom)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_the_bootstrap_covers_what_it_should(seeds: int, spread: float) -> None:
    """Of experiments with equal methods about one in twenty is called significant, also where seeds lie far apart."""
    generator = np.random.default_rng(1)
    wrong, trials = 0, 200
    for _ in range(trials):
        levels = 0.7 + spread * generator.standard_normal((10, seeds, 1))
        runs = generator.random((10, seeds, 300)) < levels
        pooled = Spread(float(runs.mean(2).var(1, ddof=1).mean()), 10 * (seeds - 1))
        wrong += bootstrap([matrix(runs[0], runs[1], pooled)], replicates=400).significant
    assert wrong / trials < 0.1


def test_a_clear_difference_is_significant_and_one_seed_says_nothing() -> None:
    """Twelve points on 300 examples with three seeds are; the same from one seed are not."""
    row = np.array([1] * 40 + [-1] * 5 + [0] * 255)
    strong = bootstrap([matrix(np.tile(row, (3, 1)), np.zeros((3, 300)))])
    assert strong.significant
    assert strong.low > 0
    assert strong.difference == pytest.approx(35 / 300)
    alone = bootstrap([Differences(row[None].astype(float), np.ones(300, dtype=int))])
    assert alone.p < 0.05
    assert not alone.significant


def test_examples_of_one_group_are_drawn_together() -> None:
    """Ten paragraphs that are all right or all wrong are ten draws, not three hundred."""
    row = np.repeat([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0], 30)
    apart = bootstrap([Differences(np.tile(row, (2, 1)), np.ones(300, dtype=int))])
    together = bootstrap([Differences(np.tile(row.reshape(10, 30).sum(1), (2, 1)), np.full(10, 30))])
    assert apart.difference == together.difference == pytest.approx(0.4)
    assert apart.significant
    assert not together.significant


def test_groups_of_records_are_used(tmp_path: Path) -> None:
    """What a record says of the paragraphs of its examples widens the interval."""
    write_layout(tmp_path, [cell("films", method, (0, 1), against=against) for method, against in TWO])
    for seed in (0, 1):
        plain = replace(record("films", "plain", seed, 0.5), choices="1" * EXAMPLES)
        ours = replace(plain, id=run_of("films", "ours", seed), method="ours", choices=LABELS[:100] + "1" * 300)
        for one in (plain, ours):
            one.write(tmp_path / "records")
    ((*_, apart),) = make_table(read_results(tmp_path)).comparisons
    for file in (tmp_path / "records").iterdir():
        one = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**one, "groups": [place // 100 for place in range(EXAMPLES)]}), encoding="utf-8")
    ((*_, together),) = make_table(read_results(tmp_path)).comparisons
    assert together.difference == apart.difference
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_equal_means_are_all_the_best_and_none_that_a_constant_reaches(tmp_path: Path) -> None:
    """Two methods with the same predictions are both in bold; where they say one class alone none is."""
    write_layout(tmp_path, [cell(task, method, (0, 1)) for task in TASKS for method in ("one", "other")])
    for task, said, right in (("films", "10" * 20 + LABELS[40:], 0.9), ("news_1", "1" * EXAMPLES, 0.5)):
        for method in ("one", "other"):
            for seed in (0, 1):
                made = record(task, method, seed, right)
                scored = {**made.metrics, "test": {"accuracy": right}}
                replace(made, metrics=scored, choices=said).write(tmp_path / "records")
    rows = dict(make_table(read_results(tmp_path)).rows)
    assert [rows[method][0].best for method in ("one", "other")] == [True, True]
    assert [rows[method][1].best for method in ("one", "other")] == [False, False]
    assert any("length 4, epochs 2" in note for note in make_table(read_results(tmp_path)).notes)


def test_a_method_is_compared_with_each_that_is_named(tmp_path: Path) -> None:
    """Two opponents make two rows of differences; the mark in the table is for the first."""
    cells = [cell("films", method, SEEDS) for method in ("plain", "ours")]
    cells.append(cell("films", "third", SEEDS, against=["plain", "ours"]))
    write_layout(tmp_path, cells)
    for seed in SEEDS:
        for method, right in (("plain", 0.5), ("ours", 0.9), ("third", 0.9)):
            record("films", method, seed, right).write(tmp_path / "records")
    table = make_table(read_results(tmp_path))
    found = {other: comparison for _, _, other, comparison in table.comparisons}
    assert found["plain"].significant
    assert not found["ours"].significant
    assert NOT_SIGNIFICANT not in dict(table.rows)["third"][0].marks


def test_three_formats(folder: Path) -> None:
    """Markdown rows have as many columns, LaTeX escapes signs, HTML is one page that parses and needs no other."""
    table = make_table(read_results(folder))
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:5]} == {len(table.columns) + 2}
    tex = latex(table)
    assert r"ours \\& theirs".replace("\\\\", "\\") in tex
    assert r"news\_1" in tex
    assert r"\textbf{" in tex
    assert "°" not in tex
    assert "& $<$ 0.001 &" in tex
    text = page(table)
    assert "ours &amp; theirs" in text
    assert "http" not in text
    parser = html.parser.HTMLParser()
    parser.feed(text)
    parser.close()
    assert [file.name for file in write_report(folder)] == ["report.md", "report.tex", "report.html"]
    assert (folder / "report.html").read_text(encoding="utf-8") == text


@pytest.fixture
def barred(tmp_path: Path) -> Path:
    """An experiment with a bar in the names of its methods and its task, and with a case study."""
    layout = write_layout(
        tmp_path,
        [cell("films|a", method, (0, 1), against=against) for method, against in (("x|y", None), ("ours", "x|y"))],
        figure={"kind": "case study"},
    )
    runs = []
    for method, right in (("x|y", 0.6), ("ours", 0.9)):
        for seed in (0, 1):
            record("films|a", method, seed, right).write(tmp_path / "records")
            runs.append(run_of("films|a", method, seed))
    explained = {"label": "0", "probability": 0.8, "words": ["good|bad", "it's"], "scores": [0.5, -0.25], "error": 0.01}
    case = {"task": "films|a", "text": "good|bad it's", "text_pair": None, "label": "1", "by": {"x|y": explained}}
    (tmp_path / "cases.json").write_text(json.dumps({"runs": runs, "cases": [case]}), encoding="utf-8")
    return layout


def test_a_bar_in_a_name_stays_in_its_cell(barred: Path) -> None:
    """Every table of the Markdown report has as many cells in each row as its heading has."""
    write_report(barred)
    text = (barred / "report.md").read_text(encoding="utf-8")
    blocks: list[list[int]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1].append(len(re.findall(r"(?<!\\)\|", line)))
        elif blocks[-1]:
            blocks.append([])
    blocks = [block for block in blocks if block]
    assert len(blocks) == 3, "results, differences and a case"
    assert [len(set(block)) for block in blocks] == [1, 1, 1]
    assert text.count(r"x\|y") == 3


class Tables(html.parser.HTMLParser):
    """The tables of a page: whether each lies in a box that scrolls, and the class of every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: list[str | None] = []
        self.tables: list[list[list[str | None]]] = []
        self.box: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a box, a table, a row or a cell."""
        given = dict(attrs).get("class")
        if tag == "div":
            self.box = given
        elif tag == "table":
            self.boxes.append(self.box)
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(given)

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a box."""
        if tag == "div":
            self.box = None


def test_wide_tables_scroll_beside_the_method(barred: Path) -> None:
    """Each table scrolls in a box, and in each of its rows the one cell of the method is fixed."""
    write_report(barred)
    text = (barred / "report.html").read_text(encoding="utf-8")
    parser = Tables()
    parser.feed(text)
    parser.close()
    assert parser.boxes == ["scroll"] * 3
    for rows in parser.tables:
        assert all(row.count("method") == 1 for row in rows)
        assert len({(len(row), row.index("method")) for row in rows}) == 1
    style = text[text.index("<style>") : text.index("</style>")]
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", style)
    assert re.search(r"\.method \{[^}]*position: sticky; left: 0;[^}]*background: #fff", style)
    assert "border-collapse: collapse" not in style, "collapsed borders do not move with a fixed cell"


def test_sizes_have_a_row_of_their_own(folder: Path) -> None:
    """A heading is the name of its task; what is known of the task stands below it in each format."""
    table = make_table(read_results(folder))
    lines = markdown(table).splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("| method |"))
    assert lines[head].startswith("| method | films | news_1 |")
    assert lines[head + 2].startswith(f"| {SIZES} | accuracy; 50 / 5 / 400; 3 seeds |")
    tex = latex(table).splitlines()
    head = next(place for place, line in enumerate(tex) if line.startswith("method & films & "))
    assert tex[head + 1].startswith(f"{SIZES} & accuracy; 50 / 5 / 400; 3 seeds & ")
    assert tex[head + 2] == r"\midrule"
    assert f'<tr class="sizes"><th class="method">{SIZES}</th><th>accuracy; 50 / 5 / 400; 3 seeds</th>' in page(table)


def test_text_of_a_page_is_escaped(barred: Path) -> None:
    """A name cannot add markup to the page, and a figure can."""
    table = replace(make_table(read_results(barred)), title="<script>a & b</script>")
    text = page(table, "caption <i>", "<?xml?>\n<svg><g/></svg>")
    assert "<script>" not in text
    assert "&lt;script&gt;a &amp; b" in text
    assert "<figure><svg><g/></svg><figcaption>caption &lt;i&gt;</figcaption></figure>" in text


def test_a_folder_without_an_experiment(tmp_path: Path) -> None:
    """The message names the file that is missing and the command that writes it."""
    with pytest.raises(OutputError, match=r"experiment\.json is missing.*promptwise compare"):
        read_results(tmp_path)
