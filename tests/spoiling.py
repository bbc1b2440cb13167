"""How a file is spoilt, and what its reader has to do then."""
import json

from run.console import UserError

STRANGE_VALUES = [
    None, True, False, 0, -1, 1, 2, 10**8, 10**8 + 1, 2**63, 10**40, 0.5, 1e308, -0.0, "", "..", "/", "Jump",
    "run", "training", "validation", "a\0b", "a\nb", "\ud800", "é" * 200, "x" * 300, [], {}, [1], [1, 2],
    [1, 30], [[]], {"label": "Jump"}, {"label": "run", "score": 0.9}, {"segment": [1, 17]}, float("nan"),
    float("inf"), -float("inf"), [float("nan")] * 2,
]  # fmt: skip
STRANGE_TEXTS = [
    b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"NaN", b"Infinity", b"-Infinity", b"1e999",
    b"-1e999", b"9" * 50, b"9" * 5000, b"1e-999", b"0x10", b"01", b'"\\ud800"', b"\xed\xa0\x80", b"\xc0\xaf",
    b"\\u0000", b"[" * 3000, b'{"a":' * 3000, b"[" * 950 + b"]" * 950, b",", b":", b'"', b"\\", b"//",
    b"null", b"true", b"{}", b"[]", b'"labels":[],', b'"database":{},', b'"v_b":[],',
    b'"subset":"training",', b'"score":1,', b'"label":"run",',
]  # fmt: skip


def places(content, keys=()):
    """List the key paths of all values in nested dictionaries and lists."""
    yield keys
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*keys, key))


def with_strange_value(rng, content):
    content = json.loads(json.dumps(content))
    keys = rng.choice(list(places(content))[1:])
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    change = rng.randrange(4)
    if change == 0:
        del parent[keys[-1]]
    elif change == 1 and isinstance(parent, dict):
        name = rng.choice([value for value in STRANGE_VALUES if isinstance(value, str)])
        parent[name] = parent.pop(keys[-1])
    elif change == 2 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), parent[rng.randrange(len(parent))])
    else:
        parent[keys[-1]] = rng.choice(STRANGE_VALUES)
    return content


def with_changed_bytes(rng, content, strange=STRANGE_TEXTS):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 2, 8, 40])
        change = rng.randrange(6)
        if change == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            del content[at:]
        elif change == 2:
            del content[at : at + length]
        elif change == 3:
            content[at:at] = rng.choice(strange)
        elif change == 4:
            content[at : at + length] = rng.choice(strange)
        else:
            begin = rng.randrange(len(content) + 1)
            content[at:at] = content[begin : begin + length]
    return bytes(content)


def refusal(read, path, content):
    """Write the file and read it; return None and the content, or a one-line refusal and None."""
    path.write_bytes(content)
    try:
        return None, read(path)
    except UserError as error:
        message = str(error)
    assert str(path) in message and "\n" not in message and len(message) < 2000, message
    return message, None
