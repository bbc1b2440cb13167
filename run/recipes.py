"""Recipes: the settings of a published training, a file each in `recipes/`.

    {"version": 1, "title": "Fine-tune ...", "source": "paper 2 ...",
     "published": {"accuracy": 0.929, "what": "video top-1 ...", "n_videos": 3783, ...} or null,
     "model": "resnet", "network": {"model_depth": 50}, "clip": {"sample_size": 112},
     "recipe": {"learning_rate": 0.003}}

`network`, `clip` and `recipe` hold what the recipe sets; all else has its default. `model` may be left out.
"""
import json
from typing import NamedTuple

from run.console import UserError
from run.kinds import require_object, versioned
from run.registry import ROOT
from run.spec import ClipSpec, Published, Recipe, value_text
from run.text import read_text

DEFAULT_RECIPE = "paper2_finetune"


class RecipeFile(NamedTuple):
    """What a recipe sets: the family, and of the network, `ClipSpec` and `Recipe` the values by name."""

    name: str
    title: str
    source: str
    published: Published
    model: str
    network: dict
    clip: dict
    recipe: dict


def recipe_names():
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in (ROOT / "recipes").glob("*.json"))


def described():
    """Return what `train.py --recipes` prints: of each recipe what it sets, its source and its figure."""
    texts = []
    for recipe in map(read_recipe, recipe_names()):
        model = {"model": recipe.model} if recipe.model else {}
        values = {**model, **recipe.network, **recipe.clip, **recipe.recipe}.items()
        sets = ", ".join(f"{name} {value_text(value)}" for name, value in values)
        texts += [f"{recipe.name}: {recipe.title}", f"  sets: {sets}"]
        texts.append(f"  written in: {recipe.source}")
        of = recipe.published
        figure = f"{of.accuracy:.2%}, {of.what} ({of.source})" if of else "no figure to compare a run with"
        texts += [f"  published: {figure}", ""]
    return "\n".join(texts[:-1])


def read_recipe(name):
    """Read a recipe. Raises UserError, naming the field, for a file that is not one."""
    path = ROOT / "recipes" / f"{name}.json"
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; there are {', '.join(recipe_names())}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    content = versioned(require_object(content, path), 1, path)
    published = content.pop("published", None)
    fields = {"model": None, "network": {}, "clip": {}, "recipe": {}, **content}
    missing = {"title", "source"} - set(fields)
    unknown = set(fields) - set(RecipeFile._fields)
    if missing or unknown:
        raise UserError(f"{path}: {f'no {min(missing)}' if missing else f'unknown field {min(unknown)!r}'}")
    recipe = RecipeFile(
        name, published=published and Published.from_json(published, f"{path}: published"), **fields
    )
    for part, spec in (("clip", ClipSpec), ("recipe", Recipe)):
        spec.of(require_object(fields[part], f"{path}: {part}"), f"{path}: {part}")
    require_object(fields["network"], f"{path}: network")
    return recipe
