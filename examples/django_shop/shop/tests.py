"""Tests of the shop. A FakeQueue takes what is dispatched; no worker and no queue file are needed."""

from asynctasq.testing import FakeQueue
from django.test import TestCase, TransactionTestCase

from shop.models import Customer, Order
from shop.tasks import ChargeCard, SendWelcome, WriteInvoice


class Dispatching(TestCase):
    """Each test is one transaction that is never committed: `captureOnCommitCallbacks` says when it would be."""

    def test_a_new_customer_is_welcomed_after_the_commit(self):
        with FakeQueue() as queue:
            with self.captureOnCommitCallbacks(execute=True):
                self.client.post("/customers/", {"email": "ada@example.org"})
                queue.assert_nothing_dispatched()

            queue.assert_dispatched(SendWelcome, customer=Customer.objects.get(), times=1)

    def test_an_order_is_charged(self):
        customer = Customer.objects.create(email="ada@example.org")

        with FakeQueue() as queue, self.captureOnCommitCallbacks(execute=True):
            self.client.post("/orders/", {"customer": customer.pk, "item": "tea"})

        queue.assert_dispatched(ChargeCard, order=Order.objects.get(item="tea"), times=1)


class Running(TransactionTestCase):
    """What a task reads was committed, as a worker would find it."""

    def setUp(self):
        customer = Customer.objects.create(email="ada@example.org")
        self.order = Order.objects.create(customer=customer, item="tea")

    def test_the_worker_welcomes_the_customer(self):
        with FakeQueue() as queue:
            SendWelcome(customer=self.order.customer).dispatch_sync()

            queue.run_until_idle_sync()

            queue.assert_completed(SendWelcome)
        self.assertIsNotNone(Customer.objects.get().welcomed_at)

    def test_a_bank_that_does_not_answer_is_asked_again(self):
        with FakeQueue() as queue:
            ChargeCard(order=self.order).dispatch_sync()

            queue.run_until_idle_sync()

            queue.assert_retried_at([1])
            queue.assert_completed(ChargeCard)
            queue.assert_completed(WriteInvoice)
        self.order.refresh_from_db()
        self.assertTrue(self.order.paid)
        self.assertIn("tea", self.order.invoice)
