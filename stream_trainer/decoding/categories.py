"""Categories as bucket indices: a keyed hash, the same for ever, in every process and on every machine.

No dictionary of known values is learned: it would grow without bound, and depend on the order of the stream.
"""

from hashlib import blake2b

from stream_trainer.schema import CategoryFeature

__all__ = ["CategoryBuckets"]

CACHE_VALUES_MAX = 65_536  # per feature; about 10 MB when full of short strings
CACHE_CHARACTERS_MAX = 128  # longer values are hashed each time: they are rare, and would make the bound above a lie


class CategoryBuckets(dict[str | int | None, int]):
    """Value -> bucket of one feature; looks like a dict that knows every value.

    bucket = blake2b(text in UTF-8, key = blake2b(feature name)) mod `buckets`. The integer 5 and the string "5" are
    the same category, so that the same records give the same buckets from JSON and from CSV. Absent (None) has a
    bucket of its own behind the others, if the feature is optional.

    >>> carrier = CategoryBuckets(CategoryFeature(name="carrier", buckets=32, optional=True))
    >>> carrier["UA"], carrier[5] == carrier["5"], carrier[None]
    (27, True, 32)
    """

    def __init__(self, feature: CategoryFeature) -> None:
        super().__init__()
        self._buckets = feature.buckets
        self._absent = feature.buckets if feature.optional else None
        # The name, hashed: blake2b takes keys of at most 64 bytes, and names may be longer.
        self._key = blake2b(feature.name.encode(), digest_size=32).digest()
        self._forget()

    def __missing__(self, value: str | int | None) -> int:
        text = str(value)
        digest = blake2b(text.encode(), key=self._key, digest_size=8).digest()
        bucket = int.from_bytes(digest, "little") % self._buckets
        if len(text) <= CACHE_CHARACTERS_MAX:
            if len(self) >= CACHE_VALUES_MAX:
                self._forget()  # all at once: values seen often are back at once, and no order has to be kept
            self[value] = bucket
        return bucket

    def _forget(self) -> None:
        self.clear()
        if self._absent is not None:
            self[None] = self._absent
