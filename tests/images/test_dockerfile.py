"""The Dockerfile says the same as the rest of the tree, and the light image has the packages that its steps import."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "components" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml", "mlflow-skinny": "mlflow"}
# Refuses to import the packages of its first argument, then imports the modules of the second.
_IMPORT = """
import importlib, importlib.abc, sys
class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Lacking())
for module in sys.argv[2].split():
    importlib.import_module(module)
"""


def needed() -> set[str]:
    return {name_of(one) for one in PROJECT["dependencies"]}


def modules_of(packages: set[str]) -> set[str]:
    return {MODULES.get(name, name).replace("-", "_") for name in packages}


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[]", requirement)[0]


def installed(target: str) -> set[str]:
    """What the Dockerfile installs into the environment of a target, and those it is made from."""
    base, stage = re.findall(rf"^FROM (\S+) AS {target}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)[0]
    lines = re.findall(r"pip install (?!--no-deps)(.*?)(?: &&|$)", stage.replace("\\\n", " "), re.MULTILINE)
    words = {name_of(word) for line in lines for word in line.split() if not word.startswith(("-", "$"))}
    torch = {"torch"} if "${TORCH}" in stage else set()
    return words | torch | (installed(base) if f" AS {base}\n" in DOCKERFILE else set())


def steps_in(image: str) -> list[str]:
    """What the components import that run in an image."""
    found = []
    for path in sorted((ROOT / "components").rglob("component.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(function, ast.FunctionDef) and f"images.{image}" in ast.unparse(function.decorator_list[0]):
                nodes = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                found += [imported(node.module or "", alias.name) for node in nodes for alias in node.names]
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return sorted({name for name in found if name.startswith("components")})


def imported(module: str, name: str) -> str:
    path = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def test_a_step_in_the_light_image_imports_nothing_that_it_lacks() -> None:
    steps = steps_in("LIGHT")
    assert len(steps) > 5
    lacking = modules_of(needed()) - modules_of(installed("light-environment"))
    assert {"torch", "transformers", "kserve"} <= lacking
    commands = ["pipelines.command", "pipelines.flags", "pipelines.compilation", "components.deployment.rollback"]
    command = [sys.executable, "-c", _IMPORT, " ".join(lacking), " ".join([*steps, *commands])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["light", "torch", "serving"])
def test_an_image_holds_what_the_package_needs_and_nothing_else(target: str) -> None:
    assert modules_of(installed(f"{target}-environment")) <= modules_of(needed()) | {"kfp_kubernetes"}


def test_torch_is_the_one_of_the_environment() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG TORCH=(\S+)$", DOCKERFILE, re.MULTILINE) == re.findall(r"install.* (torch==\S+)", makefile)
