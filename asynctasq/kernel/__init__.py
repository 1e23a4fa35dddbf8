"""Floor 0: values and decisions. No I/O, no asyncio, no clock, no randomness of its own."""
