"""The two ways in which a command ends badly."""


class RequestError(ValueError):
    """A request that can't be met as it stands: commands print it and exit with status 2.

    Example:
        >>> from sparse_ist_tf.errors import RequestError
        >>> issubclass(RequestError, ValueError)
        True
    """


class RunError(RuntimeError):
    """A failure while a good request was carried out: commands print it and exit with status 1.

    Example:
        >>> from sparse_ist_tf.errors import RunError
        >>> issubclass(RunError, RuntimeError)
        True
    """
