"""How results and a training were made, from the records that test.py and train.py write."""
import json

from run.console import UserError
from run.spec import checked_record

TEST_SPECS = ("network", "clip", "protocol", "options")
TRAINING_NAMES = (
    "command git python paddle numpy device n_ranks n_training_videos n_validation_clips n_parameters "
    "recipe_name"
).split()
TRAINING_SPECS = ("network", "clip", "recipe", "options")


def last_header(path):
    """Return the last header of a training log, None if there is none; a run may be writing to it."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "epoch" not in entry:
            return entry
    return None


def how_tested(run, why_not):
    """Return how the results were made, as groups of `(name, value)` pairs, or why that is not known."""
    if run is None:
        return {"why_not": why_not, "groups": []}
    versions = run.get("versions")
    first = {name: run.get(name) for name in ("checkpoint", "device")}
    first.update(versions if isinstance(versions, dict) else {})
    return {"why_not": "", "groups": _groups(first, run, TEST_SPECS)}


def how_trained(header):
    """Return how the last training in the folder was made, as `how_tested` does."""
    if header is None:
        return {"why_not": "no train.jsonl with a header beside the results.", "groups": []}
    try:
        checked_record(header, "train.jsonl")
    except UserError as error:
        return {"why_not": str(error), "groups": []}
    first = {name: header[name] for name in TRAINING_NAMES if name in header}
    if isinstance(first.get("command"), list):
        first["command"] = " ".join(map(str, first["command"]))
    return {"why_not": "", "groups": _groups(first, header, TRAINING_SPECS)}


def _groups(first, content, names):
    """Return a group without a title, then those of `names` that are in the content of a record.

    Only these: a log may hold more than is to be passed on with a page.
    """
    found = {name.capitalize(): content[name] for name in names if isinstance(content.get(name), dict)}
    return [{"title": name, "pairs": _pairs(group)} for name, group in {"": first, **found}.items()]


def _pairs(content):
    """Return names and values as text, those of an object inside, as a network's arguments, in its place."""
    pairs = []
    for name, value in content.items():
        pairs += value.items() if isinstance(value, dict) else [(name, value)]
    return [(str(name), _shown(value)[:400]) for name, value in pairs if name != "version"]  # of the form


def _shown(value):
    return value if isinstance(value, str) and value else json.dumps(value)
