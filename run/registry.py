"""One file a network, a data set, a recipe or a frame store: each is found by lying in its folder.

The literals of such a file (its name, its table of options) are read without running it, so that `--help`
knows them and still answers at once.
"""
import ast
import functools
import importlib.util
from pathlib import Path

from run.kinds import Kind

ROOT = Path(__file__).resolve().parent.parent
_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "path": Path, "pattern": str}


@functools.cache
def modules(folder):
    """Return the modules of a package as `{name: path}`, sorted; `folder` is like "model/networks".

    A module is called by its literal `NAME`, else by its file's name.
    """
    paths = sorted((ROOT / folder).glob("[!_]*.py"))
    return {literal(path, "NAME", path.stem): path for path in paths}


def load(folder, name):
    """Import the module of that name in a package."""
    path = modules(folder)[name]
    return importlib.import_module(".".join([*folder.split("/"), path.stem]))


@functools.cache
def _literals(path):
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                pass  # computed, so not one of the literals
    return found


def literal(path, name, default=None):
    """Return the literal that a source file assigns to a name at its top level; nothing in it is run."""
    return _literals(path).get(name, default)


def option_kinds(path):
    """Return the `OPTIONS` of a source file as `{name: (default, Kind)}`.

        OPTIONS = {
            "model_depth": {"type": "int", "default": 50, "choices": [10, 18, 34], "help": "layers"},
        }

    An entry holds what differs from the one of that name in the table `SHARED` of the folder's `_tables.py`,
    if there is one. The keys of an entry are `default` and those of `Kind`; the type is int, float, bool,
    str, path or pattern (a regular expression). One without `help` is an argument and no option.
    """
    kinds = {}
    tables = path.with_name("_tables.py")
    shared = literal(tables, "SHARED", {}) if tables.exists() else {}
    for name, entry in literal(path, "OPTIONS", {}).items():
        entry = {**shared.get(name, {}), **entry}
        entry["type"] = _TYPES[entry["type"]]
        default = entry.pop("default", None)
        if "choices" in entry:
            entry["choices"] = tuple(entry["choices"])
        kinds[name] = default, Kind(optional=default is None, **entry)
    return kinds
