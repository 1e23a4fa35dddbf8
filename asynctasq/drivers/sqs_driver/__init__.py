"""The Amazon SQS driver: only `SQSDriver` is for use outside this folder."""

from asynctasq.drivers.sqs_driver.driver import SQSDriver

__all__ = ["SQSDriver"]
