"""Work that is numbered from 0, split over processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Answer = TypeVar("Answer")


def spread(run: Callable[[int, int], Answer], number: int, size: int, jobs: int) -> Iterator[Answer]:
    """`run(first, count)` for slices of so many histories, in so many processes; the answers in order of the slices.

    With one job all of it happens in this process. Whoever stops reading gives up the slices that have not begun:
    close the iterator. `run` and its answers must be picklable.
    """
    slices = [(first, min(size, number - first)) for first in range(0, number, size)]
    if jobs == 1:
        for slice_ in slices:
            yield run(*slice_)
        return
    with ProcessPoolExecutor(min(jobs, len(slices)) or 1, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run, *slice_) for slice_ in slices]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
