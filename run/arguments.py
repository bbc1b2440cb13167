"""A parser whose options are made of `Kind`s: their type, range, default and help stand in one place."""
import argparse
import dataclasses
import difflib
import re
import sys
import textwrap
from pathlib import Path

from run import console
from run.kinds import Kind


class Parser(argparse.ArgumentParser):
    """A parser that shows defaults and ranges, keeps the example as it is and joins paths to --root_path."""

    def __init__(self, description, example):
        super().__init__(
            description=textwrap.fill(description, 78),
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.group = self  # where options are added
        self.option("quiet", False, Kind(bool, help="no progress and no notes of success on stderr"))
        self.path("root_path", ".", "folder that relative paths start from")

    def error(self, message):
        """Say in one line what is wrong, which option was meant perhaps, and end with exit code 2."""
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        if message.startswith("unrecognized arguments") and unknown:
            names = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(f"--{unknown[0][2:].replace('-', '_')}", names, 1, 0.7)
            near = "".join(f", {name} is one" for name in near)
            message = f"{unknown[0]} is no option{near}; {self.prog} --help lists all"
        self.exit(2, f"error: {message}\n")

    def begin(self, title, description=None):
        """Let the next options stand under a title of their own."""
        groups = {group.title: group for group in self._action_groups}
        self.group = groups.get(title) or self.add_argument_group(title, description)

    def path(self, name, default, help, **keywords):
        """Add an option that is a path."""
        self.group.add_argument(
            f"--{name}",
            type=Path,
            default=None if default is None else Path(default),
            help=with_default(help, default),
            **keywords,
        )

    def option(self, name, default, kind, is_given=False, **keywords):
        """Add an option of a `Kind`; `is_given` leaves it out of the result unless it was given."""
        if kind.type is bool:
            keywords["action"] = "store_true"
        else:
            keywords["type"] = _value(kind)
            if kind.many:
                keywords["nargs"] = "+"
            if kind.choices:
                keywords["choices"] = kind.choices
            if kind.metavar or not (kind.choices or kind.type is Path):
                keywords["metavar"] = kind.metavar or {int: "N", float: "X"}.get(kind.type, name.upper())
        self.group.add_argument(
            f"-{name}" if len(name) == 1 else f"--{name}",
            default=argparse.SUPPRESS if is_given else default,
            help=with_default(kind.help, default, kind.range()),
            **keywords,
        )

    def spec(self, spec, names=None):
        """Add the fields of a spec that have a help text, each in its group."""
        for name, kind in spec.kinds().items():
            if kind.help and (names is None or name in names):
                if kind.group:
                    self.begin(kind.group)
                self.option(name, getattr(spec(), name), kind, is_given=True)

    def parse(self, argv=None):
        """Return the options; those of specs only if they were given."""
        options = self.parse_args(argv)
        console.be_quiet(options.quiet)
        for name, value in vars(options).items():
            if isinstance(value, Path) and name != "root_path":
                setattr(options, name, options.root_path / value)
            elif isinstance(value, list):
                setattr(options, name, [options.root_path / v if isinstance(v, Path) else v for v in value])
        return options


class PrintAndExit(argparse.Action):
    """An option, such as `--help`, that prints a text and ends; `const` is a function that returns it."""

    def __init__(self, option_strings, dest, const, help):
        super().__init__(option_strings, argparse.SUPPRESS, 0, const, argparse.SUPPRESS, help=help)

    def __call__(self, parser, *_):
        parser._print_message(f"{self.const()}\n", sys.stdout)  # as --help: a closed pipe is no error
        parser.exit()


def with_default(text, default, values=""):
    """Return a help text with the default, unless that is none or an option's being off, and the range."""
    if isinstance(default, (tuple, list)):
        default = " ".join(map(str, default))
    has_default = default is not None and default is not False and default != "" and "default:" not in text
    facts = [f"default: {default}"] * has_default + [values] * bool(values)
    return (text + (f" ({'; '.join(facts)})" if facts else "")).replace("%", "%%")


def _value(kind):
    """Return the argparse type of a `Kind`: one that says what it expects."""

    def parse(text):
        if kind.type is Path:
            return Path(text)
        try:
            value = kind.type(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {parse.__name__}") from None
        if kind.choices is None and not kind.holds(value):
            raise argparse.ArgumentTypeError(f"{text} is not {kind.range() or kind.expected()}")
        return value

    parse.__name__ = {int: "whole number", float: "number"}.get(kind.type, "text")
    return parse


def pattern(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None


def file_ending(suffix):
    def parse(text):
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text} does not end in {suffix}")
        return Path(text)

    return parse


def take_given(options, names):
    """Take some options out of the parsed ones: return those that were given, `{name: value}`.

    Lists become the tuples that a spec holds.
    """
    values = {name: vars(options).pop(name) for name in names if hasattr(options, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def plain_options(options):
    """Return the parsed options that are in no spec as JSON can hold them, for the record of a run."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if not dataclasses.is_dataclass(value)  # a spec, or what was given of several
    }
