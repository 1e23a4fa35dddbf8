"""What the shop does after it has answered. A model travels as its key; the worker brings it fresh."""

import logging

from asynctasq import AsyncTask, SyncProcessTask, SyncTask
from django.utils import timezone

from shop import bank
from shop.models import Customer, Order

logger = logging.getLogger(__name__)


class SendWelcome(AsyncTask[None]):
    """Runs in the worker's event loop."""

    def __init__(self, customer: Customer, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.customer = customer

    async def execute(self) -> None:
        print(f"Dear {self.customer.email}, welcome to the shop!")
        self.customer.welcomed_at = timezone.now()
        await self.customer.asave(update_fields=["welcomed_at"])


class ChargeCard(SyncTask[None]):
    """Runs in a thread, and again a second later if the bank does not answer."""

    max_attempts = 4
    retry_delay = 1

    def __init__(self, order: Order, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.order = order

    def execute(self) -> None:
        bank.charge(self.order.customer.email, self.order.item, attempt=self.attempt)
        self.order.paid = True
        self.order.save(update_fields=["paid"])
        WriteInvoice(order=self.order).dispatch_sync()

    def failed(self, exception: BaseException) -> None:
        logger.error("order %s is not paid: %s", self.order.pk, exception)


class WriteInvoice(SyncProcessTask[None]):
    """Runs in a child process: work for the processor stops nobody else."""

    queue = "invoices"
    timeout = 30

    def __init__(self, order: Order, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.order = order

    def execute(self) -> None:
        total = sum(number % 7 for number in range(100_000))
        self.order.invoice = f"Invoice {self.order.pk}: {self.order.item}, {total} cents"
        self.order.save(update_fields=["invoice"])
