"""For writing custom workflows in Python: what their code is given, and the process that runs it."""

from retinue_workflow.context import Context
from retinue_workflow.thread_context import ThreadContext

__all__ = ["Context", "ThreadContext"]
