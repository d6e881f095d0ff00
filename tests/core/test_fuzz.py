"""Whatever stands in a file, a reader takes it or refuses it in short clean words, at once and in little memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from fuzz.readers import READERS, broken, read
from hypothesis import given, settings
from hypothesis import strategies as st

CASES_AT_ONCE = 20
EXAMPLES = int(os.environ.get("FUZZ_CASES", "1000")) // CASES_AT_ONCE


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is such a place: the disk is not what is tried."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("name", READERS)
def test_every_whole_file_is_read_or_refused_and_one_of_them_is_read(name: str, folder: Path) -> None:
    reader = READERS[name]
    taken = [read(reader, folder / f"f{reader.suffix}", seed) for seed in reader.seeds()]
    assert any(taken)


@pytest.mark.filterwarnings("ignore")  # what Pillow says of broken pictures
@pytest.mark.parametrize("name", READERS)
def test_every_broken_file_is_read_or_refused_in_words(name: str, folder: Path) -> None:
    reader = READERS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def cases(seed: int) -> None:
        random = Random(seed)
        for _ in range(CASES_AT_ONCE):
            data, began = broken(reader, random), time.monotonic()
            read(reader, folder / f"f{reader.suffix}", data)
            assert time.monotonic() - began < 10

    cases()
