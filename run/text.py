"""Text that users bring, lists and JSON: UTF-8, or with a mark that tells the encoding, as from Windows."""
import codecs

from run.console import UserError

# UTF-32 first: its mark begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(content):
    """Return the encoding that the mark at the beginning of some bytes tells, "utf-8" if there is none."""
    return next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")


def decoded(content, where):
    """Return bytes as text, without a mark. Raises UserError, which names `where`, for other encodings."""
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
        wrong = "it holds NUL bytes" if "\0" in text else None
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} is wrong"
    if wrong is None:
        return text
    raise UserError(
        f"{where}: not {encoding.upper().removesuffix('-SIG')} text ({wrong}); convert it from its encoding, "
        f"such as GBK, LATIN1 or UTF-16LE: iconv -f GBK -t UTF-8 {where} > converted"
    )


def read_text(path):
    """Return the text of a file that a user brings. Raises UserError, FileNotFoundError and OSError."""
    return decoded(path.read_bytes(), path)
