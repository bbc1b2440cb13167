"""Fields that carry their default, range and help, and the frozen dataclasses that are made of them.

    >>> @dataclass(frozen=True)
    ... class Protocol(Spec):
    ...     inference_stride: int = field(16, "frames between the starts of two clips", low=1)
    >>> Protocol().to_json()
    {'version': 1, 'inference_stride': 16}
    >>> Protocol.from_json({"version": 1, "inference_stride": 0}, "val_run.json")
    UserError: val_run.json: inference_stride is 0, expected a whole number, at least 1
"""
import dataclasses
import math
from dataclasses import dataclass

from run.console import UserError

_NAMES = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "an object of numbers and text",
}


def _shown(number):
    return f"{number:,}" if type(number) is int else f"{number:g}"


def _is_plain(value):
    """Tell whether a value is a number, text, null or a list of these."""
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (int, float, bool, str)


@dataclass(frozen=True)
class Kind:
    """What a field may hold: a type, a range or a choice, whether None, whether a tuple of these.

    `low` is the least value (`above`: only larger ones), `high` the largest. `length` is that of a tuple,
    None for any. `help` and `group` are for the option; a field without `help` has none.
    """

    type: type
    low: float = None
    high: float = None
    above: bool = False
    choices: tuple = None
    optional: bool = False
    many: bool = False
    length: int = None
    help: str = None
    group: str = None
    metavar: str = None

    def range(self):
        """Return the range in words, "" if every value of the type will do."""
        if self.low is None:
            return ""
        text = f"{'above' if self.above else 'at least'} {_shown(self.low)}"
        return text + ("" if self.high is None else f", at most {_shown(self.high)}")

    def holds(self, value):
        """Tell whether one value is of the type and in the range."""
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            return False
        if self.choices is not None and value not in self.choices:
            return False
        if self.type is dict:
            return all(type(key) is str and _is_plain(each) for key, each in value.items())
        if self.type in (int, float):
            above = self.low is None or (value > self.low if self.above else value >= self.low)
            return math.isfinite(value) and above and (self.high is None or value <= self.high)
        return True

    def parsed(self, value):
        """Return a value of JSON as the field holds it. Raises ValueError, which says what is expected."""
        if value is None and self.optional:
            return None
        if self.many:
            values = value if type(value) in (list, tuple) else [None]
            if all(map(self.holds, values)) and self.length in (None, len(values)):
                return tuple(map(self.type, values))
        elif self.holds(value):
            return self.type(value)
        raise ValueError(self.expected())

    def expected(self):
        """Return in words what a field may hold."""
        if self.choices is not None:
            text = f"one of {', '.join(map(str, self.choices))}"
        else:
            name = _NAMES[self.type]
            count = f"{'a list of' if self.length is None else self.length} " if self.many else ""
            name = count + name + "s" * self.many if self.type in (int, float) else name
            name = f"a {name}" if self.type in (int, float) and not self.many else name
            text = ", ".join(filter(None, [name, self.range()]))
        return text + (" or null" if self.optional else "")


def field(default, help=None, **kind):
    """Return a dataclass field with its default and its `Kind`, whose type is the default's by default."""
    many = type(default) is tuple
    kind.setdefault("type", type(default[0] if many else default))
    metadata = {"kind": Kind(help=help, many=many, **kind)}
    if kind["type"] is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Spec:
    """A frozen dataclass of `field`s, as JSON and back.

    `VERSION` is that of the JSON form. A field that came later than a file has the value that it had before
    it existed: its `BEFORE`, else its default. `upgraded` turns the content of an older version into today's.
    """

    VERSION = 1
    BEFORE = {}

    @classmethod
    def kinds(cls):
        """Return the `Kind` of each field by name, in their order."""
        return {f.name: f.metadata["kind"] for f in dataclasses.fields(cls) if "kind" in f.metadata}

    @classmethod
    def upgraded(cls, content):
        """Return the content of an older form in today's; there is none yet."""
        return content

    def to_json(self):
        """Return what JSON can hold; `from_json` reads it."""
        values = {name: getattr(self, name) for name in self.kinds()}
        return {"version": self.VERSION, **{k: list(v) if type(v) is tuple else v for k, v in values.items()}}

    @classmethod
    def from_json(cls, content, where):
        """Return the spec that `to_json` described. Raises UserError: `where`, and the field."""
        content = versioned(cls.upgraded(require_object(content, where)), cls.VERSION, where)
        kinds, values = cls.kinds(), {}
        for name, value in {**cls.BEFORE, **content}.items():
            if name not in kinds:
                raise UserError(f"{where}: unknown field {name!r:.80}")
            try:
                values[name] = kinds[name].parsed(value)
            except ValueError as error:
                raise UserError(f"{where}: {name} is {value!r:.80}, expected {error}") from None
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def of(cls, values, where="options"):
        """Return the spec with some values, `{name: value}`, else its defaults; checked as `from_json`."""
        return cls.from_json({**cls().to_json(), **values}, where)


def require_object(content, where):
    """Return the content of JSON. Raises UserError if it is not an object."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected an object, found {content!r:.80}")
    return content


def versioned(content, version, where):
    """Return an object without its version. Raises UserError if that is newer than this program."""
    content = dict(content)
    found = content.pop("version", version)
    if type(found) is not int or not 1 <= found <= version:
        raise UserError(
            f"{where}: of version {found!r:.20}, this program reads up to {version}; use a newer checkout"
        )
    return content
