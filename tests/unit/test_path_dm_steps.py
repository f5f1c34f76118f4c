"""What is never done to devices that are not ours, whoever asks (spec path 10.2)."""

from __future__ import annotations

import errno

import pytest

from holdfast.path.daemon import dm_steps
from holdfast.path.dm import DmError, Uuid
from holdfast.testing.fake_dm import FakeDm


@pytest.mark.parametrize("uuid", ["LVM-abc", "CRYPT-LUKS2-x", "part1-mpath-36a", "36a", ""])
def test_a_device_of_another_kind_is_not_removed(uuid: str) -> None:
    dm = FakeDm()
    dm.create("data", uuid)
    before = dm.list_devices()
    with pytest.raises(DmError) as caught:
        dm_steps.remove(dm, Uuid(uuid))
    assert caught.value.errno == errno.EPERM
    assert dm.list_devices() == before
