"""What may import what. Imports inside functions count; those for type checkers do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import promptwise

PACKAGE = Path(promptwise.__file__).parent


def name_of(file: Path) -> str:
    """The dotted name of a module."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(node: ast.AST) -> Iterator[str]:
    """The modules of the package that a piece of code imports when it runs."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "promptwise":
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in FILES else str(node.module)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "promptwise")
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


@cache
def graph() -> dict[str, set[str]]:
    """Which modules each module imports."""
    return {
        name: set(imports(ast.parse(file.read_text(encoding="utf-8")))) - {name, "promptwise"}
        for name, file in FILES.items()
    }


def reachable(start: str) -> set[str]:
    """What a module imports, straight away or through others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph()[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def folder(name: str) -> str:
    """The sub-package of a module; the module itself where it lies in no folder."""
    return name.split(".")[1] if "." in name else name


def test_the_reader_of_imports_sees_lazy_ones_and_no_type_hints() -> None:
    """A check that saw no import at all would pass for ever."""
    code = "if TYPE_CHECKING:\n    import promptwise.errors\ndef f():\n    from promptwise.models import adapter\n"
    assert list(imports(ast.parse(code))) == ["promptwise.models.adapter"]
    assert sum(map(len, graph().values())) > 300


def test_no_module_imports_itself_through_others() -> None:
    """A circle shows that two modules are one idea, or that one of them knows too much."""
    circles = sorted(name for name in FILES if name in reachable(name))
    assert circles == []


def test_no_folder_imports_itself_through_others() -> None:
    """The folders stand on each other in one order."""
    edges = {(folder(one), folder(other)) for one, others in graph().items() for other in others}
    below: dict[str, set[str]] = {}
    for one, other in edges:
        if one != other:
            below.setdefault(one, set()).add(other)

    def all_below(name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for other in below.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    assert sorted(name for name in below if name in all_below(name)) == []


def test_reports_need_no_engine() -> None:
    """A report is made of records, on a machine that could not run the experiment."""
    engine = {f"promptwise.experiments.{name}" for name in ("engine", "worker", "compare", "case_study")}
    found = {name: reachable(name) & engine for name in FILES if folder(name) == "reports"}
    assert {name: parts for name, parts in found.items() if parts} == {}


def test_strategies_know_no_backbone() -> None:
    """What makes a prompt depends neither on the model nor on how the prompt enters it."""
    found = {
        name: sorted(other for other in reachable(name) if folder(other) in ("backbones", "injectors", "models"))
        for name in FILES
        if folder(name) == "strategies"
    }
    assert {name: parts for name, parts in found.items() if parts} == {}
