"""The execution engine: runs, their journals, sessions."""

import retinue_kit  # noqa: F401 - before gRPC is imported
