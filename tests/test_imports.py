"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("jaxfaces", "augment", "metric", "finance")
GROUND = {"imaging", "models", "data", "engine"}
COMMANDS = {"train", "evaluate", "export", "registry", "study"}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def imported(name, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


EDGES = [(name, target) for name, tree in modules() for target in imported(name, tree)]


def part(name):
    """The package inside jaxfaces that a module belongs to, or its own name."""
    return name.split(".")[1] if "." in name else ""


def test_the_wings_stand_alone():
    wings = {"augment", "metric", "finance"}
    for name, target in EDGES:
        top, other = name.split(".")[0], target.split(".")[0]
        if top in wings:
            assert other == top or other not in PACKAGES, f"{name} imports {target}"


def test_the_ground_floor_knows_nothing_above_it():
    allowed = GROUND | {"registry"}
    for name, target in EDGES:
        if name.startswith("jaxfaces.") and part(name) in GROUND:
            if target.startswith("jaxfaces."):
                assert part(target) in allowed, f"{name} imports {target}"


def test_data_and_models_do_not_know_the_engine():
    for name, target in EDGES:
        if part(name) in ("data", "models", "imaging") and name.startswith("jaxfaces."):
            if target.startswith("jaxfaces."):
                assert part(target) != "engine", f"{name} imports {target}"


def test_studies_stand_on_engine_and_imaging_and_only_their_command_knows_them():
    below = {"studies", "engine", "imaging"}
    for name, target in EDGES:
        if name.startswith("jaxfaces.studies") and target.startswith("jaxfaces."):
            assert part(target) in below, f"{name} imports {target}"
        if target.startswith("jaxfaces.studies"):
            assert part(name) in {"studies", "study"}, f"{name} imports {target}"


def test_only_commands_import_tasks():
    for name, target in EDGES:
        if target.startswith("jaxfaces.tasks"):
            assert part(name) in COMMANDS | {"tasks"}, f"{name} imports {target}"


def test_there_are_no_circles():
    known = {name for name, _ in modules()}
    graph = {name: set() for name in known}
    for name, target in EDGES:
        while target and target not in known:
            target = target.rpartition(".")[0]
        # A package's own name is its lazy front door, not a dependency of its modules.
        if target and target != name and not name.startswith(target + "."):
            graph[name].add(target)
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for target in sorted(graph[name]):
                visit(target)
            path.pop()
            done.add(name)

    for name in sorted(known):
        visit(name)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_quick_because_it_imports_no_jax(package):
    code = f"import sys, {package}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tensorflow_and_torch_are_never_imported():
    for name, tree in modules():
        for target in imported(name, tree):
            assert target.split(".")[0] not in ("tensorflow", "torch"), name
