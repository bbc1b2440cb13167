"""How a program meets its user: errors in one line, notes, progress, signals and exit codes.

Results go to stdout; everything here goes to stderr.
"""
import contextlib
import functools
import io
import os
import signal
import sys
import traceback

for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # closed by the caller, as `2>&-` does: what is written goes nowhere
        setattr(sys, _name, open(os.devnull, "w"))


class UserError(Exception):
    """A mistake that the user can fix: one line that says what, where and how. Takes one string."""


def run_script(main, *arguments):
    """Run a script; end it with one line on stderr if the user can fix the cause.

    Exit codes: 0 done, 1 an error in one line, 2 bad options, 128 + n ended by signal n (130 for Ctrl-C).
    Names that stdout cannot encode are escaped.
    """
    if hasattr(sys.stdout, "buffer"):
        options = {"encoding": sys.stdout.encoding, "line_buffering": sys.stdout.line_buffering}
        sys.stdout = _Stdout(sys.stdout.detach(), errors="backslashreplace", **options)
    try:
        main(*arguments)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except BrokenPipeError:  # who read the results has enough, as `| head` does
        _drop_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename == _Stdout.name_shown:
            _drop_stdout()
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


class _Stdout(io.TextIOWrapper):
    """The stream of the results, whose errors say that they are its own."""

    name_shown = "stdout"

    def write(self, text):
        with self._named():
            return super().write(text)

    def flush(self):
        with self._named():
            super().flush()

    @contextlib.contextmanager
    def _named(self):
        try:
            yield
        except OSError as error:
            error.filename = self.name_shown
            raise


def _drop_stdout():
    """Send what stdout still holds nowhere, so that Python's end does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def about(path):
    """Let the UserErrors of this context begin with the path of the file that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def one_line(error):
    """Return what a UserError or an OSError says in one line: the file, if it is of one, and the reason."""
    if isinstance(error, UserError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def fault_of(error):
    """Return in one line why one item of many failed, whatever was raised, so that the others can be done."""
    if isinstance(error, (UserError, OSError)):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({os.path.basename(frame.filename)}, line {frame.lineno})" for frame in where)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text:.300}{place}; a fault of this program, please report it"


class Stopped(Exception):
    """A run that ends early because a signal asked for it, its work saved."""

    def __init__(self, signum, message):
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.signum = signum


class StopSignals:
    """While this context lasts, SIGTERM and Ctrl-C set `signum` instead of ending the process.

    So the run can finish its step and save first. A second Ctrl-C ends it at once. A SIGTERM that is repeated
    does not: Paddle's launcher sends it three times, 0.2 s apart, where one is meant.
    """

    def __init__(self):
        self.signum = 0

    def __enter__(self):
        self._before = {s: signal.signal(s, self._hear) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _hear(self, signum, _frame):
        if self.signum:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signum = signum
        print(f"{signal.Signals(signum).name}: saving after this step", file=sys.stderr)


_quiet = False


def be_quiet(is_quiet):
    """Leave out progress and notes of success from now on, or not."""
    global _quiet
    _quiet = is_quiet


@functools.cache
def note(text, of_success=False):
    """Tell the user on stderr, once for each text, what the script does on its own.

    A note `of_success` asks for nothing; `--quiet` leaves it out.
    """
    if of_success and _quiet:
        return
    if "tqdm" in sys.modules:  # a bar may be live: above it
        sys.modules["tqdm"].tqdm.write(f"note: {text}", file=sys.stderr)
    else:
        print(f"note: {text}", file=sys.stderr)


def shown(text):
    """Return a name as one line that every terminal can show, whatever bytes it is of."""
    return text if text.isprintable() else repr(text)


def first_names(names, n=3):
    """Return the first few of some names as text, with dots for more; "" for none."""
    return ", ".join(shown(str(name)) for name in names[:n]) + (", ..." if len(names) > n else "")


def progress_bar(**settings):
    """Return a `tqdm` bar on stderr: live on a terminal, a line every 30 seconds in a log file.

    With `--quiet` it shows nothing.
    """
    from tqdm import tqdm

    settings["disable"] = _quiet or settings.get("disable", False)
    line = "{desc} {n_fmt}/{total_fmt} {unit}s, {elapsed}<{remaining}, {rate_fmt}{postfix}"
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **settings)
    in_a_log = {"file": _Lines(), "mininterval": 30, "maxinterval": 30, "delay": 30, "bar_format": line}
    return tqdm(**{**in_a_log, **settings})


def working(what, is_shown=True):
    """Return a context that shows what is being done, on a terminal only, if there is nothing to count."""
    return progress_bar(desc=what, bar_format="{desc} ...", leave=False, disable=not is_shown)


class _Lines:
    """A file for tqdm that ends its lines instead of overwriting them."""

    def write(self, text):
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self):
        sys.stderr.flush()
