"""What the tests of the MySQL driver share."""

from asynctasq.kernel.messages import Depth, Lease, Message

EMPTY = Depth(ready=0, scheduled=0, reserved=0, dead=0)


def messages(*ids: str, queue: str = "q", delay_s: float = 0.0) -> list[Message]:
    return [Message(id=message_id, queue=queue, body=message_id.encode(), delay_s=delay_s) for message_id in ids]


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message_id for lease in leases]
