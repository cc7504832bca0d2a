"""Records for the tests of the embedded broker; imported by its child process."""


def numbered(n, n_bytes):
    """(key, value) pairs whose value begins with the number of the record."""
    for i in range(n):
        yield None, b"%d " % i + b"x" * n_bytes
