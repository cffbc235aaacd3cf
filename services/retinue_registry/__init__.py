import retinue_kit  # noqa: F401 - before gRPC is imported
