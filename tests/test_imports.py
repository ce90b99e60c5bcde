"""Who imports whom, and what an import costs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Container
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import amvl_model

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("amvl_model", "amvl_theory")
SCRIPTS = sorted(path.name for path in (REPOSITORY / "experiments").glob("*.py"))

Python = Callable[..., subprocess.CompletedProcess[str]]


# Every sub-package, lowest first: it imports from itself and from those before it.
LAYERS = {
    "amvl_model": (
        *(
            "distributed",
            "objectives",
            "config",
            "results",
            "two_pass",
            "data",
            "models",
            "evaluation",
            "diagnostics",
            "training",
        ),
        *("studies", "profiling", "commands", "cli"),
    ),
    "amvl_theory": (
        *(
            "checks",
            "titles",
            "gaussian",
            "model",
            "equilibria",
            "dynamics",
            "nonlinear",
            "learnt_prior",
            "game",
            "theorems",
        ),
        *("verification", "figures"),
    ),
}
ABOVE = ("experiments", "notebooks", "paper_figs", "tests")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path, known: Container[str]) -> set[str]:
    """Modules of the project that a file imports, wherever in the file; a name's module where a name is imported."""
    result = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            result |= {name if name in known else node.module for name in names}
    return result


@lru_cache(maxsize=1)
def imports() -> dict[str, set[str]]:
    """Every module of the project, except tests, with the modules of the project that it imports."""
    files = {module_name(f): f for root in (*LAYERS, *ABOVE[:-1]) for f in (REPOSITORY / root).rglob("*.py")}
    return {name: imported(file, files) & set(files) for name, file in files.items()}


def test_the_two_packages_never_import_each_other_nor_what_is_built_on_them() -> None:
    for name, targets in imports().items():
        root = name.split(".")[0]
        forbidden = {*LAYERS, *ABOVE} - {root} if root in LAYERS else set()
        wrong = sorted(target for target in targets if target.split(".")[0] in forbidden)
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("package", LAYERS)
def test_a_sub_package_imports_only_from_those_below_it(package: str) -> None:
    layers = LAYERS[package]
    for name, targets in imports().items():
        parts = name.split(".")
        if parts[0] != package or len(parts) == 1:
            continue
        assert parts[1] in layers, f"{name}: add {parts[1]} to LAYERS"
        for target in targets:
            other = target.split(".")
            if other[0] == package and len(other) > 1:
                assert layers.index(other[1]) <= layers.index(parts[1]), f"{name} imports upwards: {target}"


@pytest.mark.parametrize("package", LAYERS)
def test_the_tree_of_the_readme_lists_every_sub_package_in_the_order_of_the_layers(package: str) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition(f"\n{package}/")[2]
    lines = re.findall(r"(?m)^[├└]── ((?:\w+[./\w]*(?:, )?)+)", text.partition("\namvl_")[0])
    names = [name.split(".")[0].strip("/") for line in lines for name in line.split(", ")]
    folders = {f.parent.name for f in (REPOSITORY / package).glob("*/__init__.py")}
    assert folders <= set(names), f"README's tree lacks {sorted(folders - set(names))}"
    listed = [name for name in names if name in LAYERS[package]]
    assert listed == [name for name in LAYERS[package] if name in listed]


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {name: {t for t in targets if t.split(".")[0] == name.split(".")[0]} for name, targets in imports().items()}
    edges = {
        name: targets for name, targets in edges.items() if name not in LAYERS
    }  # the faces import lazily from below
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' <- '.join(error.args[1])}")


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


MORE_THAN_EIGHT = {
    "amvl_model/commands": "a file a command",
    "amvl_model/models": "user code and saved notebooks import its paths",
    "amvl_model/studies/laboratory": "the main job's parts",
    "amvl_theory/theorems": "a file a statement",
}
"""Folders with more than eight modules, and why."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_has_at_most_eight_modules_where_no_reason_is_given(package: str) -> None:
    count = Counter(
        f.parent.relative_to(REPOSITORY).as_posix() for f in sources(package) if not f.stem.startswith("__")
    )
    assert {name for name in count if count[name] > 8} == {name for name in MORE_THAN_EIGHT if name.startswith(package)}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_code_is_a_package_so_that_the_wheel_contains_it(package: str) -> None:
    for folder in {file.parent for file in sources(package)}:
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def light_modules() -> list[str]:
    """Modules that have to do without torch: configuration, commands, all of the data but the processor, what reads results."""
    light = ("amvl_model", "amvl_model.config.schema", "amvl_model.cli", "amvl_model.profiling.doctor")
    data = [module_name(file) for file in sources("amvl_model/data") if file.stem != "processing"]
    commands = [module_name(file) for file in sources("amvl_model/commands")]
    plugins = [f"amvl_model.evaluation.{name}_plugin.samples" for name in ("lmms_eval", "vlmevalkit")]
    readers = ["amvl_model.studies.runner", "paper_figs.measure", "paper_figs.sources", *plugins]
    return [*light, "amvl_model.profiling.footprint", *commands, *data, *readers]


def test_package_config_and_data_import_neither_torch_nor_transformers(python: Python) -> None:
    code = f"""
import importlib, sys
for name in {light_modules()!r}:
    importlib.import_module(name)
    heavy = {{"torch", "transformers", "matplotlib.pyplot"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_amvl_theory_imports_numpy_scipy_and_sympy_only(python: Python) -> None:
    others = {"torch", "transformers", "amvl_model", "amvl_style", "matplotlib"}
    code = f"import amvl_theory, sys; assert not {others} & set(sys.modules)"
    assert python("-c", code).returncode == 0


@pytest.mark.parametrize("name", amvl_model.__all__)
def test_a_public_name_can_be_imported_from_the_package(name: str) -> None:
    assert getattr(amvl_model, name) is not None


def test_the_list_of_public_names_and_the_list_of_their_homes_agree() -> None:
    assert set(amvl_model.__all__) <= set(dir(amvl_model))
    assert set(amvl_model._HOMES) | {"__version__"} == set(amvl_model.__all__)


def test_an_unknown_name_of_amvl_model_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AMLV'"):
        _ = amvl_model.AMLV


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_script_takes_less_than_three_seconds_of_processor_time(python: Python, script: str) -> None:
    began = os.times()
    result = python(f"experiments/{script}", "--help")
    ended = os.times()
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()
    seconds = ended.children_user + ended.children_system - began.children_user - began.children_system
    assert seconds < 3, f"{script} --help took {seconds:.1f} s; import torch and transformers inside functions"
