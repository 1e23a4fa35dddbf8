"""Floor 1: the driver contract and one file per driver."""
