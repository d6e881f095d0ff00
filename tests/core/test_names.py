"""A file name is one that Windows, macOS and Linux can hold and show, or it is refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalora_core.errors import InvalidOptions
from metalora_core.files.names import checked_name, name_finding

REFUSED = {
    "": "is empty",
    " ": "is empty",
    ".": "is empty",
    "...": "is empty",
    "dir/": "is empty",
    "/tmp/out": "is empty",
    "a\nb": "cannot be seen",
    "nul\0byte": "cannot be seen",
    "\x1b[31mred": "cannot be seen",
    "half\ud800": "cannot be seen",
    "x:stream": "not every system",
    "C:\\out": "not every system",
    "a?b*": "not every system",
    "%date:yyyy-MM-dd%": "not every system",
    ".mine": "hides it",
    "a/.git/b": "hides it",
    "folder./b": "ends in a dot",
    "name.": "ends in a dot",
    "con": "device",
    "a/NUL/b": "device",
    "com1.v2": "device",
    "x" * 300: "at most 200",
    "写" * 120: "at most 200",
}
CORRECTED = {
    "mug": "mug.safetensors",
    "v1.5": "v1.5.safetensors",
    " spaced ": "spaced.safetensors",
    "a.safetensors ": "a.safetensors",
    "a.SAFETENSORS": "a.safetensors",
    "one/two": "one/two.safetensors",
    "sub\\name": "sub/name.safetensors",
    "one//./two": "one/two.safetensors",
    "ü写真🫖": "ü写真🫖.safetensors",
    "console": "console.safetensors",
    "../out": "../out.safetensors",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_some_system_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptions, match=REFUSED[name]) as caught:
        checked_name(name, ".safetensors")
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize("name", CORRECTED)
def test_what_is_meant_is_put_right(name: str) -> None:
    assert checked_name(name, ".safetensors") == CORRECTED[name]


@given(st.text(max_size=40))
def test_a_name_that_is_taken_is_good_in_every_part_and_stays_so(name: str) -> None:
    try:
        checked = checked_name(name, ".safetensors")
    except InvalidOptions:
        return
    assert checked_name(checked, ".safetensors") == checked
    assert not any(name_finding(part) for part in checked.split("/") if part != "..")
