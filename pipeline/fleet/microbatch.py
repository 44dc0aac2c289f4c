"""The largest micro-batch that memory allows, found by running into its end."""


class Microbatch:
    """size: images to run at once now, at least 1.

    Halved when memory runs out; from then on the middle between what fitted and what did not is tried until the two
    meet, which costs a handful of failures in the life of a replica.
    """

    def __init__(self, wanted: int) -> None:
        self.size = wanted
        self._fitted = 0
        self._too_much: int | None = None

    def did_fit(self, images: int) -> None:
        """So many images went through at once."""
        self._fitted = max(self._fitted, images)
        if self._too_much is not None and images == self.size:
            self.size = (images + self._too_much) // 2

    def did_not_fit(self, images: int) -> None:
        """Memory ran out with so many images, two or more."""
        self._too_much = images
        if self._fitted >= images:  # there is less memory than before
            self._fitted = 0
        self.size = (self._fitted + images) // 2
