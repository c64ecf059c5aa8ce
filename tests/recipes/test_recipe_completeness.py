"""What a recipe needs besides its function, each step that is missing by name."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from initstats import recipes
from initstats.recipes import Recipe
from initstats.recipes.library.building import RECIPES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/recipes.md").read_text()
LIBRARY = ROOT / "initstats/recipes/library"


def missing(name: str) -> list[str]:
    """Return what a recipe still needs."""
    table = GUIDE.partition("| architecture | recipes |")[2].partition("\n\n")[0]
    examples = "".join(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
    tests = Path(__file__).parent
    files = (*tests.glob("test_recipe_numbers*.py"), *tests.glob("test_recipe_reference*.py"))
    numbers = "".join(path.read_text() for path in files)
    healthy = (ROOT / "tests/verification/test_healthy_models.py").read_text()
    used = rf"\brecipes\.{name}\b|, \"{name}\""
    steps = {
        f"not in __all__ of {inspect.getmodule(RECIPES[name]).__name__}": name in recipes.__all__,
        "no Source: in its docstring": "Source:" in (RECIPES[name].__doc__ or ""),
        "its Recipe has another name, or no source": by_its_name(name),
        "not in the table of docs/guides/recipes.md": f"`{name}`" in table,
        "no worked example in docs/guides/recipes.md": re.search(rf"\b{name}\b", examples),
        "no test of its numbers in tests/recipes": re.search(used, numbers),
        "not in MODELS of tests/verification/test_healthy_models.py": re.search(used, healthy),
    }
    return [f"{name}: {step}" for step, done in steps.items() if not done]


def by_its_name(name: str) -> bool:
    recipe = RECIPES[name]()
    return recipe.name == name and bool(recipe.source)


def test_no_recipe_lacks_a_step() -> None:
    lacking = [step for name in recipes.available() for step in missing(name)]
    assert lacking == [], "\n".join(lacking)


def test_every_file_of_the_library_is_collected_and_every_recipe_in_it_registered() -> None:
    lacking = []
    for path in sorted(LIBRARY.glob("for_*.py")):
        if not hasattr(recipes, path.stem):
            lacking.append(f"{path.stem}: not collected in initstats/recipes/__init__.py")
        module = importlib.import_module(f"initstats.recipes.library.{path.stem}")
        for name, make in inspect.getmembers(module, inspect.isfunction):
            makes = inspect.signature(make).return_annotation == Recipe.__name__
            if makes and make.__module__ == module.__name__ and not name.startswith("_"):
                lacking += [] if name in RECIPES else [f"{name}: not decorated with @built_in"]
    assert lacking == [], "\n".join(lacking)


def test_the_table_lists_no_recipe_that_is_not_there() -> None:
    rows = GUIDE.partition("| architecture | recipes |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", rows)) == recipes.available()
