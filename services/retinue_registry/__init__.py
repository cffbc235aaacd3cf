"""The config registry: components and their versions."""

import retinue_kit  # noqa: F401 - before gRPC is imported
