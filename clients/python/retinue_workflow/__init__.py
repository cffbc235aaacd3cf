"""For writing custom workflows in Python: what code is given, the steps it may be made of, its process."""

from retinue_workflow.context import Context
from retinue_workflow.step import CompositeStep, Step
from retinue_workflow.step_context import StepContext
from retinue_workflow.summary import StepResult, Summary
from retinue_workflow.thread_context import ThreadContext
from retinue_workflow.workflow import Workflow

__all__ = [
    "CompositeStep",
    "Context",
    "Step",
    "StepContext",
    "StepResult",
    "Summary",
    "ThreadContext",
    "Workflow",
]
