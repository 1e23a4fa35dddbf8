"""Floor 1: values, arguments and envelopes to bytes and back; runs no code that a payload names. Import its modules."""
