"""What the data path raises where a data set, not one sample, cannot be used."""


class DataError(RuntimeError):
    """A data set that cannot be used: what is wrong, where, what to do."""

    def __str__(self) -> str:
        # a loader's worker sends its error with the traceback before it; the sentence comes last
        return super().__str__().strip().rpartition(f"{__name__}.DataError: ")[2]
