"""What every service needs and none owns: settings, server, errors on the wire, logs, metrics, secrets.

A service's package imports it first: gRPC reads these variables when it is imported itself.
"""

import os

# What fails is told in our own words, once.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# gRPC's fork handlers can kill the child of a process that only forks to start another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
