"""Benchmarks: Retinue as processes beside a bare gRPC server that does the same work and nothing more."""

import os

# This process starts others while gRPC's threads run; gRPC's handlers of a fork can abort such a child before
# it is the other program. What is measured is started without this setting, and must take care of itself.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
