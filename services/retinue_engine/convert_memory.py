"""Between Memory on the wire and the engine's own row."""

from retinue.engine.v1.memory_pb2 import Memory
from retinue_engine.memory import MemoryRow


def memory_to_proto(row: MemoryRow) -> Memory:
    """A text as callers see it."""
    memory = Memory(
        memory_id=row.memory_id,
        namespace=row.namespace,
        text=row.text,
        labels=row.labels,
        run_id=row.run_id,
    )
    memory.create_time.FromMicroseconds(row.create_us)
    if row.expire_us is not None:
        memory.expire_time.FromMicroseconds(row.expire_us)
    return memory


def memory_from_proto(memory: Memory) -> MemoryRow:
    """The row of a text as its event holds it."""
    return MemoryRow(
        namespace=memory.namespace,
        memory_id=memory.memory_id,
        text=memory.text,
        labels=dict(memory.labels),
        create_us=memory.create_time.ToMicroseconds(),
        expire_us=memory.expire_time.ToMicroseconds() if memory.HasField("expire_time") else None,
        run_id=memory.run_id,
    )
