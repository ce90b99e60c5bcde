"""Who imports whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import amvl_model

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = [name for name in ("amvl_model", "amvl_theory") if (REPOSITORY / name).is_dir()]
SCRIPTS = sorted(path.name for path in (REPOSITORY / "experiments").glob("*.py") if not path.name.startswith("_"))

Python = Callable[..., subprocess.CompletedProcess[str]]


def imported_roots(file: Path) -> set[str]:
    """First components of every module that a file imports, wherever in the file."""
    roots = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.split(".")[0])
    return roots


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_two_packages_never_import_each_other_nor_what_is_built_on_them(package: str) -> None:
    forbidden = {"amvl_model", "amvl_theory", "experiments", "paper_figs", "notebooks", "tests"} - {package}
    for file in sources(package):
        assert not imported_roots(file) & forbidden, f"{file} imports {imported_roots(file) & forbidden}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_code_is_a_package_so_that_the_wheel_contains_it(package: str) -> None:
    for folder in {file.parent for file in sources(package)}:
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def light_modules() -> list[str]:
    """The modules that have to do without torch: the configuration, the console script, and all of the data."""
    data = [".".join(f.relative_to(REPOSITORY).with_suffix("").parts) for f in sources("amvl_model/data")]
    return ["amvl_model", "amvl_model.config", "amvl_model.cli", "amvl_model.doctor", "amvl_model.footprint", *data]


def test_package_config_and_data_import_neither_torch_nor_transformers(python: Python) -> None:
    code = f"""
import importlib, sys
for name in {[name.removesuffix(".__init__") for name in light_modules()]!r}:
    importlib.import_module(name)
    heavy = {{"torch", "transformers", "matplotlib.pyplot"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_amvl_theory_imports_numpy_scipy_and_sympy_only(python: Python) -> None:
    if "amvl_theory" not in PACKAGES:
        pytest.skip("amvl_theory is not there yet")
    code = "import amvl_theory, sys; assert not {'torch', 'transformers', 'amvl_model'} & set(sys.modules)"
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
def test_help_of_every_script_answers_within_three_seconds(python: Python, script: str) -> None:
    took = []
    for _ in range(3):  # the machine may be busy with something else: the best of three counts
        began = time.perf_counter()
        result = python(f"experiments/{script}", "--help")
        took.append(time.perf_counter() - began)
        assert result.returncode == 0, result.stderr
        assert "usage" in result.stdout.lower()
        if took[-1] < 3:
            break
    assert min(took) < 3, f"{script} --help took {took} s; import torch and transformers inside functions"
