"""Slots keep what was put there, their size cannot be changed, and both sides see the same."""

from __future__ import annotations

import os

import pytest

from mmembed.inputs.shared_slots import SharedSlots

if not hasattr(os, "memfd_create"):
    pytest.skip("no memory of this kind here", allow_module_level=True)


@pytest.fixture
def created():
    slots, descriptor = SharedSlots.create(3, 4096)
    yield slots, descriptor
    os.close(descriptor)


def test_both_sides_see_what_the_other_puts(created):
    here, descriptor = created
    there = SharedSlots.open(os.dup(descriptor), 3, 4096)
    here.put(1, 0, memoryview(b"file"))
    there.put(1, 4, memoryview(b" frame"))
    there.put(2, 4090, memoryview(b"at end"))
    assert bytes(here.view(1, 0, 10)) == b"file frame"
    assert bytes(here.view(2, 4090, 4096)) == b"at end"
    assert bytes(here.view(0, 0, 4096)) == bytes(4096)


def test_opening_closes_the_descriptor(created):
    copy = os.dup(created[1])
    SharedSlots.open(copy, 3, 4096)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


@pytest.mark.parametrize("size", [0, 4096, 1 << 20])
def test_nobody_changes_the_size(created, size):
    with pytest.raises(PermissionError):
        os.ftruncate(created[1], size)


def test_a_slot_does_not_reach_into_the_next(created):
    slots, _ = created
    with pytest.raises(AssertionError):
        slots.put(0, 4090, memoryview(b"too long"))
    with pytest.raises(AssertionError):
        slots.view(0, 0, 4097)


def test_closing_waits_for_a_copy_under_way(created):
    slots, _ = created
    view = slots.view(0, 0, 4)
    slots.close()
    assert bytes(view) == bytes(4)
    view.release()
    slots.close()
    with pytest.raises(ValueError, match="closed"):
        slots.view(0, 0, 4)
