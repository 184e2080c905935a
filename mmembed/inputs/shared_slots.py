"""Memory that a decode process and its parent both see: pictures cross over without a pipe.

`process.py` makes it and lends a slot to each request; `worker.py` puts frames there. It is no
place for state: what either side finds there is copied before it is used, because a decoder that
was taken over can write to it at any time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

__all__ = ["SharedSlots"]


class SharedSlots:
    """`count` slots of `slot_bytes` each.

    Args:
        memory: what `create` or `open` mapped.
        count, slot_bytes: how it is divided.
    """

    def __init__(self, memory: mmap.mmap, count: int, slot_bytes: int) -> None:
        assert len(memory) == count * slot_bytes, (len(memory), count, slot_bytes)
        self._memory = memory
        self.count = count
        self.slot_bytes = slot_bytes

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> tuple[SharedSlots, int] | None:
        """New slots, and the descriptor by which a child opens them; None where there are none.

        The memory is taken when it is first written. Its size is sealed: a child that cut it
        would make the next look at it end this process.
        """
        if not hasattr(os, "memfd_create"):  # macOS
            return None
        with suppress(OSError):  # a container may forbid it
            descriptor = os.memfd_create("mmembed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(descriptor, count * slot_bytes)
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
                return cls(mmap.mmap(descriptor, count * slot_bytes), count, slot_bytes), descriptor
            except OSError:
                os.close(descriptor)
        return None

    @classmethod
    def open(cls, descriptor: int, count: int, slot_bytes: int) -> SharedSlots:
        """The slots behind an inherited descriptor, which is closed."""
        try:
            return cls(mmap.mmap(descriptor, count * slot_bytes), count, slot_bytes)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the memory back. Using the slots afterwards is a ValueError."""
        with suppress(BufferError):  # another thread is copying; its end gives it back
            self._memory.close()

    def put(self, slot: int, start: int, data: memoryview) -> None:
        """Copy bytes into a slot, from byte `start` of it."""
        assert 0 <= start <= start + len(data) <= self.slot_bytes, (start, len(data))
        position = slot * self.slot_bytes + start
        self._memory[position : position + len(data)] = data

    def view(self, slot: int, start: int, end: int) -> memoryview:
        """Bytes `start` to `end` of a slot. The other side may change them: copy, then look."""
        assert 0 <= start <= end <= self.slot_bytes, (start, end)
        position = slot * self.slot_bytes
        return memoryview(self._memory)[position + start : position + end]
