"""What to say when a package is missing that only an option needs."""
from run.console import UserError


def first_line(error):
    """Return an error as one short line, "ImportError: No module named 'visualdl'"."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def missing_package(option, package, error):
    """Return the UserError for an option whose package cannot be imported."""
    return UserError(
        f"{option} needs the package {package} ({first_line(error)}); pip install {package}, "
        "or leave the option out"
    )
