"""Each change is committed before its task goes to the queue, so that a worker always finds the row."""

from asynctasq.integrations.django import on_commit
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from shop.models import Customer, Order
from shop.tasks import ChargeCard, SendWelcome


@require_POST
def register(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        customer = Customer.objects.create(email=request.POST["email"])
        on_commit(SendWelcome(customer=customer))
    return JsonResponse({"customer": customer.pk}, status=201)


@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    customer = get_object_or_404(Customer, pk=request.POST["customer"])
    with transaction.atomic():
        order = Order.objects.create(customer=customer, item=request.POST["item"])
        on_commit(ChargeCard(order=order))
    return JsonResponse({"order": order.pk}, status=201)


@require_GET
def show_order(request: HttpRequest, number: int) -> JsonResponse:
    order = get_object_or_404(Order.objects.select_related("customer"), pk=number)
    return JsonResponse(
        {
            "customer": order.customer.email,
            "welcomed": order.customer.welcomed_at is not None,
            "item": order.item,
            "paid": order.paid,
            "invoice": order.invoice,
        }
    )
