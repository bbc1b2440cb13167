"""Which videos a network was trained on, small enough to travel with its weights."""
import base64
import binascii
import hashlib
from dataclasses import dataclass

from run.console import UserError

_LENGTH = 6  # bytes: of 650,000 videos, one in 400 million others looks like one of them


@dataclass(frozen=True)
class Fingerprints:
    """A set of samples, each known by six bytes of a hash of its folder and its frames.

    Its JSON is text: the sorted fingerprints behind each other, in base64.
    """

    known: frozenset = frozenset()

    @classmethod
    def of(cls, samples):
        """Return the fingerprints of `Samples`."""
        return cls(frozenset(map(_fingerprint, samples)))

    def __or__(self, other):
        return Fingerprints(self.known | other.known)

    def count(self, samples):
        """Return how many of some samples are among these."""
        return sum(_fingerprint(sample) in self.known for sample in samples)

    def to_json(self):
        """Return text that JSON can hold; `from_json` reads it."""
        return base64.b64encode(b"".join(sorted(self.known))).decode()

    @classmethod
    def from_json(cls, content, where):
        """Return the fingerprints that `to_json` described. Raises UserError for other text."""
        try:
            content = base64.b64decode(content, validate=True)
        except (TypeError, ValueError, binascii.Error):
            content = b"-"
        if len(content) % _LENGTH:
            raise UserError(f"{where}: expected base64 of {_LENGTH} bytes for each video")
        return cls(frozenset(content[i : i + _LENGTH] for i in range(0, len(content), _LENGTH)))


def _fingerprint(sample):
    text = f"{sample.folder}\n{sample.begin}\n{sample.end}"
    return hashlib.sha256(text.encode()).digest()[:_LENGTH]
