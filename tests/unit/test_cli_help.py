"""The help of the command line: complete, true, and there without importing anything heavy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
from click import Group
from click.testing import CliRunner

from promptwise.cli.main import cli
from promptwise.config import DTYPES, POOLINGS, ClozeConfig, KnowledgeConfig, PairsConfig, TrainConfig
from promptwise.config.composition import known_settings
from promptwise.config.settings import flag_name
from promptwise.errors import ConfigError
from promptwise.registry import ENCODERS, HEADS, INJECTORS, STRATEGIES
from promptwise.tasks import task_names

COMMANDS = (
    *("train", "evaluate", "predict", "explain", "export", "serve", "zero-shot", "info", "tasks", "strategies", "demo"),
    *("search", "compare", "report", "pretrain"),
)
WIDE = {"terminal_width": 1000, "max_content_width": 1000}
HEAVY = ("torch", "transformers", "datasets", "numpy", "accelerate", "pyarrow", "safetensors", "optuna")


def help_of(*arguments: str) -> str:
    """What ``--help`` prints, as one line."""
    result = CliRunner().invoke(cli, [*arguments, "--help"], prog_name="promptwise", **WIDE)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_help_lists_the_commands_in_order() -> None:
    """Every command that exists is in the help, and no other."""
    listed = help_of().partition("Commands: ")[2].split()
    assert tuple(cli.commands) == COMMANDS
    assert [listed.index(name) for name in COMMANDS] == sorted(listed.index(name) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str) -> None:
    """``--help`` of each command says how it is used and what it does."""
    text = help_of(command)
    assert text.startswith(f"Usage: promptwise {command}")
    assert str(cli.commands[command].help).split("\n")[0] in text


def test_train_has_a_flag_for_every_setting() -> None:
    """Every setting of ``TrainConfig``, those of strategies, bases and heads included, is a flag with its default."""
    text = help_of("train")
    settings = known_settings(TrainConfig).values()
    assert {one.name for one in fields(TrainConfig)} - {"parts"} < {one.name for one in settings}
    assert {"encoder", "output_rank", "table_rank", "knowledge", "layers", "pooling"} < {one.name for one in settings}
    for setting in settings:
        assert f"{flag_name(setting.name)} " in text
        assert " ".join(setting.help.split()) in text
        default = setting.default
        if default is not None and not isinstance(default, bool):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert f"[default: {shown}]" in text
    for flag in ("--config", "--overwrite", "--resume"):
        assert flag in text


@pytest.mark.parametrize(
    ("command", "config"), [("cloze", ClozeConfig), ("knowledge", KnowledgeConfig), ("prompt", PairsConfig)]
)
def test_pretraining_has_a_flag_for_every_setting(command: str, config: type) -> None:
    """Every field of the configuration is a flag of the command with its help."""
    text = help_of("pretrain", command)
    for setting in known_settings(config).values():
        assert f"{flag_name(setting.name)} " in text
        assert " ".join(setting.help.split()) in text


def test_flags_convert_as_files_and_python_do() -> None:
    """``8.0`` is an integer where one is wanted, ``8.5`` is none; a list of layers is one however it is written."""
    train = cli.commands["train"]
    context = train.make_context("train", ["--length", "8.0", "--epochs", "2", "--layers", "3,1"])
    assert (context.params["length"], context.params["epochs"], context.params["layers"]) == (8, 2.0, "1,3")
    with pytest.raises(ConfigError, match=r"--length must be a whole number, found '8\.5'"):
        train.make_context("train", ["--length", "8.5"])


def test_the_help_names_the_choices_that_exist() -> None:
    """The names in the help are those of the registries."""
    text = help_of("train")
    for registry in (INJECTORS, STRATEGIES, ENCODERS, HEADS):
        assert f"[{'|'.join(registry.names())}]" in text
    for choices in (POOLINGS, DTYPES):
        assert f"[{'|'.join(choices)}]" in text


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_using_an_adapter_has_the_same_flags(command: str) -> None:
    """``evaluate`` and ``predict`` name where the adapter, the backbone and the data come from."""
    text = help_of(command)
    for flag in ("--adapter", "--model", "--batch-size", "--dtype", "--threads", "--text-column"):
        assert f"{flag} " in text


def test_commands_named_in_the_help_exist() -> None:
    """Lines of the help that show a command use flags which that command has."""
    groups = [command for command in cli.commands.values() if isinstance(command, Group)]
    commands = [*cli.commands.values(), *(inner for group in groups for inner in group.commands.values())]
    shown = [
        line.split()
        for command in commands
        for line in str(command.help).splitlines()
        if line.strip().startswith("promptwise ")
    ]
    assert len(shown) >= 10
    for words in shown:
        command = cli.commands[words[1]]
        if isinstance(command, Group):
            command = command.commands[words[2]]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= flags
        if "--task" in words:
            assert words[words.index("--task") + 1] in task_names()


def run_python(code: str) -> str:
    """Standard output of a new Python that runs ``code``."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_imports_nothing_heavy() -> None:
    """``import promptwise`` and its command line need the standard library and click alone."""
    code = f"import sys, promptwise, promptwise.cli.main; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    "command", [("-h",), ("--version",), ("train", "--help"), ("predict", "-h"), ("tasks",), ("strategies",)]
)
def test_looking_things_up_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    """Help, version and lists come without the model libraries; what reads files is there when a file is read."""
    heavy = HEAVY if command == ("tasks",) else (*HEAVY, "pydantic")
    code = (
        f"import sys; sys.argv = ['promptwise', *{command}]\n"
        "from promptwise.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', sorted(set({heavy}) & set(sys.modules)))"
    )
    assert run_python(code).splitlines()[-1] == "heavy: []"
