"""Wrong names, values, flags and data files: the exit code, and a message that says what was found and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.command import (
    fails,
    ok,
    promptwise,
    ticket_rows,
    train_flags,
    write_csv,
    write_jsonl,
)

NAMES = {
    "strategy": (("--strategy", "encodr"), ("encodr", "'encoder'", "random, shared")),
    "base": (("--base", "prefx"), ("prefx", "'prefix'", "prompt")),
    "head": (("--head", "clozed"), ("clozed", "'cloze'", "classifier")),
    "encoder": (("--encoder", "rnnn"), ("rnnn", "'rnn'", "cnn, mlp")),
    "pooling": (("--pooling", "maen"), ("maen", "'mean'", "first, last")),
    "dtype": (("--dtype", "fp16"), ("fp16", "'bf16'", "'fp32'")),
    "logger": (("--report-to", "tensorbord"), ("tensorbord", "'tensorboard'", "none")),
}

VALUES = {
    "--length 0": "--length is 0; the least is 1",
    "--batch-size 0": "--batch-size is 0; the least is 1",
    f"--batch-size {10**30}": f"--batch-size is {10**30}; the most is {2**20}",
    "--threads 0": "--threads is 0; the least is 1",
    "--max-length 0": "--max-length is 0; the least is 1",
    "--lr -1": "--lr is -1.0; the least is 0",
    "--lr nan": "--lr",
    "--lr inf": "--lr",
    "--epochs -1": "--epochs is -1.0; the least is 0.001",
    "--epochs 0": "--epochs is 0.0; the least is 0.001",
    "--epochs inf": "--epochs",
    "--seed -1": "--seed is -1; the least is 0",
    f"--seed {2**32}": "--seed",
    "--gradient-accumulation 0": "--gradient-accumulation",
    "--weight-decay -0.1": "--weight-decay",
}


@pytest.mark.parametrize("kind", NAMES)
def test_unknown_names_are_answered_with_near_ones(tickets: Path, tiny: Path, tmp_path: Path, kind: str) -> None:
    """The message has the name that was given, the near ones and all known ones; the exit code is 2."""
    more, says = NAMES[kind]
    fails(2, *train_flags(tickets, tiny, tmp_path / "run", *more), says=says)
    assert not (tmp_path / "run").exists()


def test_an_unknown_task_is_answered_with_near_ones(tmp_path: Path) -> None:
    """The same holds for tasks, in every command that takes one."""
    for command in (("train", "--out", tmp_path / "run", "--task", "topics"), ("tasks", "topics")):
        fails(2, *command, says=["topics", "'topics13'", "multirc"])


def test_unknown_commands_and_flags_are_answered_with_near_ones() -> None:
    """A command or a flag that does not exist ends with 2, near names and no traceback."""
    fails(2, "trian", says=["trian", "'train'", "evaluate"])
    result = promptwise("train", "--lenght", 3)
    assert result.code == 2
    assert "--lenght" in result.error
    assert "--length" in result.error
    assert "Traceback" not in result.err


@pytest.mark.parametrize("wrong", ["--length x", "--lr high", "--seed 1.5"])
def test_values_of_a_wrong_type_name_their_flag(tickets: Path, tiny: Path, tmp_path: Path, wrong: str) -> None:
    """A value that is no number ends with 2 and names the flag and the value."""
    flag, value = wrong.split()
    result = promptwise(*train_flags(tickets, tiny, tmp_path / "run", flag, value))
    assert result.code == 2
    assert flag in result.error
    assert value in result.error


@pytest.mark.parametrize("wrong", VALUES)
def test_values_out_of_range_name_their_limit(tickets: Path, tiny: Path, tmp_path: Path, wrong: str) -> None:
    """A number that cannot work ends with 2 and a message with the flag, the number and the limit."""
    fails(2, *train_flags(tickets, tiny, tmp_path / "run", *wrong.split()), says=[VALUES[wrong]])


@pytest.mark.parametrize("fraction", ["0", "1", "1.5"])
def test_a_validation_fraction_out_of_range_is_refused(
    answers: Path, tiny: Path, tmp_path: Path, fraction: str
) -> None:
    """The part of train to hold out must lie between 0 and 1."""
    small = ("--task", "cb", "--data-dir", answers, "--model", tiny, "--out", tmp_path / "run")
    fails(2, "train", *small, "--validation-fraction", fraction, says=["raction", "between 0 and 1"])


def test_flags_that_are_missing_or_exclude_each_other(tickets: Path, tmp_path: Path) -> None:
    """Data and output folder must be named, data once."""
    fails(2, "train", "--out", tmp_path, says=["--task", "--data", "neither"])
    fails(2, "train", "--task", "cb", "--data", tickets, "--out", tmp_path, says=["--task", "--data", "both"])
    fails(2, "train", "--data", tickets, says=["--out"])


def test_a_rank_that_makes_no_smaller_table(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A rank must be below the width of a row, and belongs to the random table alone; no folder is begun."""
    flags = train_flags(tickets, tiny, tmp_path / "run", "--base", "prompt")
    fails(2, *flags, "--strategy", "random", "--table-rank", 32, says=["--table-rank 32", "32 numbers"])
    fails(2, *flags, "--strategy", "shared", "--table-rank", 3, says=["--table-rank would change nothing", "shared"])
    assert not (tmp_path / "run").exists()


IDLE = {
    "--encoder cnn --strategy shared": "--encoder would change nothing beside --strategy shared",
    "--strategy random --train-table": "--train-table would change nothing beside --strategy random",
    "--pooling mean --head cloze": "--pooling would change nothing beside --head cloze",
    "--length 8 --strategy none": "--length would change nothing beside --strategy none",
    "--layers all --base prompt": "--layers would change nothing beside --base prompt",
    "--set output_rank=4 --strategy shared": "--output-rank would change nothing beside --strategy shared",
}


@pytest.mark.parametrize("wrong", IDLE)
def test_flags_that_would_change_nothing(tickets: Path, tiny: Path, tmp_path: Path, wrong: str) -> None:
    """A flag that the chosen strategy, base or head does not read is refused by name; so is a key of a file."""
    left_out = ("--length", "4", "--strategy", "encoder")
    flags = [flag for flag in train_flags(tickets, tiny, tmp_path / "run") if flag not in left_out]
    fails(2, *flags, *wrong.split(), says=[IDLE[wrong]])
    file = tmp_path / "run.yaml"
    file.write_text("strategy: shared\nhead: cloze\nencoder: cnn\npooling: mean\n", encoding="utf-8")
    says = ["--encoder would change nothing beside --strategy shared", "--pooling would change nothing"]
    fails(2, *flags, "--config", file, says=says)
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    fails(2, *train_flags(tickets, tiny, tmp_path / "run", "--compile"), says=["--compile", "g++"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lenght: 3\nsed: 1\n", ["'lenght'", "'length'", "'sed'", "'seed'"]),
        (
            "strategy: shared\nlength: many\nlr: [1]\n",
            ["length must be a whole number", "'many'", "lr must be a number"],
        ),
        ("seed: .inf\n", ["seed must be a whole number"]),
        ("strategy: shared\nlength: null\n", ["length"]),
        ("strategy: encoder\ntrain_table: maybe\n", ["train_table", "'maybe'"]),
        ("- a\n- b\n", ["list"]),
        ("a: [\n", ["YAML", "line 2"]),
        ("", ["NoneType"]),
        ("out: 2024-13-01\n", ["YAML", "month must be"]),
        ("tags: !!set {x, y}\n", ["YAML", "set", "line 1"]),
        ("strategy: encodr\ntask: cb\n", ["encodr", "'encoder'"]),
    ],
    ids=["keys", "types", "infinity", "null", "bool", "list", "broken", "empty", "date", "set", "name"],
)
def test_a_wrong_config_file_says_all_that_is_wrong(tmp_path: Path, text: str, says: list[str]) -> None:
    """Unknown keys and wrong types of a file are named together, with near keys."""
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    fails(2, "train", "--config", file, "--out", tmp_path / "run", says=says)


def test_a_missing_config_file_is_answered_with_a_near_one(tmp_path: Path) -> None:
    """A file that is not there is named, and one of a similar name beside it."""
    (tmp_path / "run.yaml").touch()
    fails(2, "train", "--config", tmp_path / "rum.yaml", says=["rum.yaml", "'run.yaml'"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("tiny-brt", ["tiny-brt", "tiny-bert"]),
        ("no/such-model", ["'no/such-model'", "cache", "Hub"]),
        ("sentence-transformers/all-MiniLM-L6", ["'sentence-transformers/all-MiniLM-L6-v2'"]),
    ],
    ids=["folder", "name", "near name"],
)
def test_an_unknown_model_is_named(
    tickets: Path, models: Path, tiny: Path, tmp_path: Path, model: str, says: list[str]
) -> None:
    """A folder or name without a model ends with 2, and near ones are named."""
    name = models / model if model == "tiny-brt" else Path(model)
    fails(2, *train_flags(tickets, name, tmp_path / "run"), says=says)


@pytest.mark.parametrize("flag", [(), ("--head", "cloze")], ids=["classifier", "cloze"])
def test_k_that_leaves_no_room_names_the_largest_that_works(
    tickets: Path, tiny: Path, tmp_path: Path, flag: tuple[str, ...]
) -> None:
    """The message has K, the model's positions and the largest K; that one trains, and one more does not."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--base", "prompt", *flag)
    message = fails(2, *run, "--length", 64, says=["K=64", "64 positions", "--length"])
    largest = int(message.split("--length ")[1].split()[0])
    assert 40 < largest < 64
    fails(2, *run, "--length", largest + 1, says=[f"K={largest + 1}", f"--length {largest} or less"])
    ok(*run, "--length", largest)


def test_a_max_length_without_room_names_the_least_that_works(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A limit below the special tokens is refused with the least that works."""
    run = train_flags(tickets, tiny, tmp_path / "run")
    fails(2, *run, "--max-length", 2, says=["--max-length 2", "Use 3 or more"])
    ok(*run, "--max-length", 3)


def test_the_cloze_head_needs_a_language_model_head(tickets: Path, headless_tiny: Path, tmp_path: Path) -> None:
    """A backbone that was saved without its language-model head is refused by name, and another head offered."""
    run = train_flags(tickets, headless_tiny, tmp_path / "run")
    fails(1, *run, "--head", "cloze", says=["cloze", headless_tiny, "--head classifier"])
    ok(*run)


def test_a_decoder_is_not_asked_for_text_after_the_mask(tickets: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    """A decoder would not see a text that follows the mask; the message shows the template."""
    run = train_flags(tickets, tiny_decoder, tmp_path / "run", "--head", "cloze")
    fails(2, *run, "--template", "{mask}: {text}", says=["'{mask}: {text}'", "after"])
    ok(*run, "--template", "{text} It was {mask}")


def test_labels_with_the_same_words_are_refused_for_a_cloze(tiny: Path, tmp_path: Path) -> None:
    """Two labels that the tokenizer cannot tell apart are named."""
    rows = [{**row, "team": {"praise": "good film", "blame": "Good film"}[row["team"]]} for row in ticket_rows()]
    run = train_flags(write_csv(tmp_path / "same.csv", rows), tiny, tmp_path / "run")
    fails(2, *run, "--head", "cloze", says=["'good film'", "'Good film'"])
    ok(*run, "--head", "classifier")


def test_a_template_without_its_fields_is_refused(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A template needs the text and the mask."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--head", "cloze")
    fails(2, *run, "--template", "{text} is it", says=["{mask}"])
    fails(2, *run, "--template", "{mask} is it", says=["{text}"])


GOOD = "".join(f"a film {index},{'ab'[index % 2]}\n" for index in range(20))
FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("data.csv", b"", ["data.csv", "no rows"]),
    "header only": ("data.csv", b"body,team\n", ["data.csv", "no rows"]),
    "empty lines": ("data.jsonl", b"\n\n", ["data.jsonl", "no rows"]),
    "one class": ("data.csv", b"body,team\n" + b"a film,same\n" * 20, ["data.csv", "1 distinct", "'team'"]),
    "too few rows": ("data.csv", b"body,team\na,x\nb,y\n", ["data.csv", "2 rows", "10 rows"]),
    "text column": ("data.csv", f"bodi,team\n{GOOD}".encode(), ["data.csv", "'body'", "'bodi'"]),
    "label column": ("data.csv", f"body,tema\n{GOOD}".encode(), ["data.csv", "'team'", "'tema'"]),
    "broken JSON": ("data.jsonl", b'{"body": "a", "team": 1}\n{"body": "b",\n', ["data.jsonl, line 2", "JSON"]),
    "JSON array": ("data.jsonl", b"[1, 2]\n", ["data.jsonl, line 1", "list"]),
    "not UTF-8": ("data.csv", f"body,team\n{GOOD}".encode() + b"caf\xe9,a\n", ["data.csv, line 22", "0xe9", "UTF-8"]),
    "open quote": ("data.csv", f'body,team\n{GOOD}"never closed,a\n'.encode(), ["data.csv, line 22"]),
    "extra field": ("data.csv", f"body,team\n{GOOD}one,two,three\n".encode(), ["data.csv, line 22", "'three'"]),
    "no label": ("data.csv", f"body,team\n{GOOD}one,\n".encode(), ["data.csv, line 22", "label"]),
    "null text": ("data.jsonl", b'{"body": null, "team": 1}\n{"body": "b", "team": 2}\n' * 9, ["line 1", "'body'"]),
    "no gzip": ("data.csv.gz", b"body,team\n", ["data.csv.gz", "gzip"]),
    "no Parquet": ("data.parquet", b"PAR1", ["data.parquet", "Parquet"]),
    "unknown kind": ("data.xlsx", b"x", ["data.xlsx", ".jsonl", ".csv"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_bad_data_files_are_named_with_the_place(tiny: Path, tmp_path: Path, kind: str) -> None:
    """The message names the file, the line or column, and what was found there; nothing is written."""
    name, content, says = FILES[kind]
    (tmp_path / name).write_bytes(content)
    fails(1, *train_flags(tmp_path / name, tiny, tmp_path / "run"), says=says)
    assert not (tmp_path / "run").exists()


def test_a_missing_data_file_is_answered_with_a_near_one(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A file that is not there is named with similar names beside it."""
    run = train_flags(tickets.with_name("ticket.csv"), tiny, tmp_path / "run")
    fails(1, *run, says=["'ticket.csv'", "'tickets.csv'"])
    fails(1, *train_flags(tickets.parent, tiny, tmp_path / "run"), says=[tickets.parent])


def test_a_data_folder_without_its_files_is_named(answers: Path, tiny: Path, tmp_path: Path) -> None:
    """The message says which file was looked for and what is there."""
    (tmp_path / "trian.jsonl").touch()
    small = ("--task", "cb", "--model", tiny, "--out", tmp_path / "run")
    fails(1, "train", *small, "--data-dir", tmp_path, says=[tmp_path, "'train'", "trian.jsonl"])
    fails(1, "train", *small, "--data-dir", tmp_path / "no", says=[tmp_path / "no", "does not exist"])


def test_a_task_of_the_hub_without_network_names_the_way_out(tiny: Path, tmp_path: Path) -> None:
    """Without network and cache, the message points to ``--data-dir``."""
    fails(1, "train", "--task", "cb", "--model", tiny, "--out", tmp_path / "run", says=["--data-dir", "super_glue"])


def test_evaluate_names_a_label_that_the_adapter_does_not_know(trained: Path, tmp_path: Path) -> None:
    """A label outside the adapter's is named with file, line and the ones it knows."""
    rows = [*ticket_rows(3), {"body": "so so", "team": "other"}]
    file = write_csv(tmp_path / "new.csv", rows)
    fails(1, "evaluate", "--adapter", trained, "--data", file, says=[file, "line 5", "'other'", "'blame', 'praise'"])


def test_evaluate_needs_data_that_fits(trained: Path, tickets: Path, tmp_path: Path) -> None:
    """Evaluate asks for a file, takes one source, and refuses a task with other labels."""
    fails(2, "evaluate", "--adapter", trained, says=["tickets", "--data"])
    fails(2, "evaluate", "--adapter", trained, "--data", tickets, "--task", "cb", says=["--task", "--data"])
    fails(2, "evaluate", "--adapter", trained, "--task", "cb", says=["blame, praise", "entailment"])
    missing = ("--data", tickets, "--label-column", "tem")
    fails(1, "evaluate", "--adapter", trained, *missing, says=[tickets, "'tem'", "'team'"])
    (tmp_path / "empty.csv").touch()
    fails(1, "evaluate", "--adapter", trained, "--data", tmp_path / "empty.csv", says=["empty.csv", "no rows"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.jsonl", b'{"body": "a"}\n{"body"\n', ["in.jsonl, line 2", "JSON"]),
        ("in.csv", b"bodi\na\n", ["in.csv, line 2", "'body'", "'bodi'"]),
        ("in.txt", b"one\ncaf\xe9\n", ["in.txt, line 2", "0xe9"]),
        ("in.txt", b"", ["in.txt"]),
        ("in.doc", b"x", ["in.doc", ".txt"]),
    ],
    ids=["JSON", "column", "bytes", "empty", "kind"],
)
def test_predict_names_the_place_in_its_input(
    trained: Path, tmp_path: Path, name: str, content: bytes, says: list[str]
) -> None:
    """Unlabelled inputs are checked like labelled ones."""
    (tmp_path / name).write_bytes(content)
    fails(1, "predict", "--adapter", trained, tmp_path / name, says=says)


def test_predict_names_the_line_of_standard_input(trained: Path) -> None:
    """Standard input that is empty or no UTF-8 is called so."""
    fails(1, "predict", "--adapter", trained, stdin=b"", says=["standard input"])
    fails(1, "predict", "--adapter", trained, stdin=b"ok\n\xff\n", says=["standard input, line 2", "0xff"])


def test_predict_refuses_inputs_that_do_not_fit(trained: Path, tickets: Path, tmp_path: Path) -> None:
    """Two sources at once, a second text for a task on single ones, and unknown values are refused."""
    use = ("predict", "--adapter", trained)
    fails(2, *use, "--text", "x", tickets, says=["--text", tickets])
    fails(2, *use, "--text", "x", "--text-pair", "y", says=["--text-pair"])
    fails(2, *use, "--text", "x", "--format", "jsn", says=["'jsn'", "csv, jsonl"])
    fails(2, *use, "--text", "x", "--dtype", "fp16", says=["'fp16'", "'fp32'"])
    fails(1, *use, "--text", "x", "--out", tmp_path / "no" / "out.csv", says=[tmp_path / "no" / "out.csv"])


def test_a_text_that_is_no_utf8_is_refused(trained: Path) -> None:
    """Bytes of the shell that are no UTF-8 reach Python as half surrogate pairs; the message says so."""
    command = ("predict", "--adapter", trained, "--text", "caf\udce9")
    code = promptwise(*command).code
    assert code in (1, 2)
    fails(code, *command)


def test_a_file_name_that_is_no_utf8_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Settings are written to files, which are UTF-8; without this training would end before they are."""
    fails(2, *train_flags(tmp_path / "caf\udce9.csv", tiny, tmp_path / "run"), says=["is not UTF-8", "rename"])
    assert not (tmp_path / "run").exists()


def test_shots_leave_no_room_for_a_validation_file(tmp_path: Path) -> None:
    """They draw validation rows themselves; the file would be ignored."""
    run = ("train", "--task", "topics13", "--shots", 4, "--validation-file", "dev.jsonl", "--out", tmp_path / "run")
    fails(2, *run, says=["--shots", "--validation-file", "leave one"])


def test_a_failing_predict_leaves_the_old_output_alone(trained: Path, tmp_path: Path) -> None:
    """``--out`` is not emptied for an input that cannot be read, nor when it is the input itself."""
    old = tmp_path / "labels.csv"
    old.write_text("precious\n", encoding="utf-8")
    broken = write_jsonl(tmp_path / "in.jsonl", [{"nothing": 1}])
    fails(1, "predict", "--adapter", trained, "--out", old, broken)
    assert old.read_text(encoding="utf-8") == "precious\n"
    rows = write_csv(tmp_path / "rows.csv", [{"body": "a good film"}])
    promptwise("predict", "--adapter", trained, "--format", "csv", "--out", rows, rows)
    assert rows.read_text(encoding="utf-8") != ""


@pytest.mark.parametrize(("flag", "value"), [("--encoder", "mlp"), ("--length", 32), ("--layers", "first")])
def test_a_flag_of_another_strategy_is_refused_with_its_default_too(tmp_path: Path, flag: str, value: object) -> None:
    """Whoever types it means that strategy; in a file, which may hold all settings, a default asks for nothing."""
    run = ("train", "--task", "topics13", "--out", tmp_path / "run")
    fails(2, *run, flag, value, says=[f"{flag} would change nothing beside"])
    assert not (tmp_path / "run").exists()


def test_a_flag_may_undo_what_a_file_says(tmp_path: Path) -> None:
    """With its default, which asks for nothing: the command gets as far as the data, which is not there."""
    file = tmp_path / "run.yaml"
    file.write_text("strategy: encoder\nbase: prefix\nencoder: cnn\nlength: 64\n", encoding="utf-8")
    run = ("train", "--config", file, "--task", "topics13", "--data-dir", tmp_path / "none", "--out", tmp_path / "run")
    flags = ("--strategy", "token-bias", "--base", "hidden")
    fails(1, *run, *flags, "--encoder", "mlp", "--length", 32, says=[tmp_path / "none"])
    fails(2, *run, *flags, says=["--length would change nothing", "--encoder would change nothing"])
