"""The public surface: the names that are exported, the tree of exceptions, and the size of modules."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import promptwise
from promptwise import errors

PACKAGE = Path(promptwise.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ERRORS = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
}


def test_the_public_names_are_these() -> None:
    """A name that is added or taken away is a change of this test."""
    assert set(promptwise.__all__) == {
        *("Backbone", "FitConfig", "Prediction", "PromptConfig", "PromptedModel", "PromptwiseError", "TaskData"),
        *("TaskSpec", "TrainConfig", "__version__", "load_backbone", "load_spec", "load_task", "task_from_file"),
        *("ZeroShotModel", "task_names", "attribute", "Attribution", "AdapterPool", "IPTConfig"),
    }
    assert len(promptwise.__all__) == len(set(promptwise.__all__))


@pytest.mark.parametrize("name", promptwise.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """Each name leads to an object that says what it is."""
    value = getattr(promptwise, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(promptwise)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """Lazy names do not swallow mistakes."""
    with pytest.raises(AttributeError, match="no_such_name"):
        promptwise.no_such_name  # noqa: B018


def test_every_error_is_one_of_ours() -> None:
    """All exceptions derive from ``PromptwiseError``, have a docstring, and end a command with 1 or 2."""
    assert len(ERRORS) >= 9
    for error in ERRORS.values():
        assert issubclass(error, errors.PromptwiseError)
        assert error.__doc__
        assert error.exit_code == (2 if issubclass(error, errors.ConfigError | errors.UnknownModelError) else 1)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    """Each exception is drawn once, below the class that it derives from."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"^( {4}[ │├└─]*)(\w+)(?:$|\s{2,})", line)
        if not match:
            continue
        depth, name = len(match[1]), match[2]
        above = [(level, other) for level, other in above if level < depth]
        if above:
            assert name not in drawn
            drawn[name] = above[-1][1]
        above.append((depth, name))
    assert drawn == {name: error.__base__.__name__ for name, error in ERRORS.items()}


def test_modules_say_what_they_are_for() -> None:
    """Every module starts with a docstring."""
    without = [path.name for path in MODULES if not path.read_text(encoding="utf-8").startswith('"""')]
    assert without == []
