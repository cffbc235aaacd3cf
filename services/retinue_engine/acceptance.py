"""Accepting a run: checked, resolved, and stored before the caller has its answer."""

import hashlib
import secrets
import time

from retinue.engine.v1 import run_pb2
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.errors import InvalidArgumentError, RequestIdReusedError, RetinueError, Violation
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.closures import Closures
from retinue_engine.convert import now_us, run_started
from retinue_engine.history import definition_from
from retinue_engine.journal import encode_record
from retinue_engine.store import RunRow, SessionTakenError, Store
from retinue_engine.supervisor import Supervisor

MAX_MESSAGE_BYTES = 512 * 1024
MAX_SESSION_ID = 256
MAX_REQUEST_ID = 128
MAX_LABELS = 64
MAX_LABEL = 256


class Acceptance:
    """Takes requests to run something and makes them runs."""

    def __init__(self, store: Store, closures: Closures, supervisor: Supervisor) -> None:
        self._store = store
        self._closures = closures
        self._supervisor = supervisor

    async def accept(self, request: RunRequest) -> RunRow:
        """Store a run and begin it; return it as stored. The same request_id finds the same run."""
        _check(request)
        request.namespace = namespace = request.namespace or "default"
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        try:
            self._supervisor.check_room()
            target = request.target
            resolved = await self._closures.resolve(namespace, target.kind, target.name, request.options.llm)
            # What cannot work is refused now: a key that is missing here, a setting that fits no transport.
            definition = resolved.SerializeToString()
            for llm in definition_from(definition, request.options.SerializeToString()).llms:
                llm.endpoint()
        except RetinueError:
            # The store finds a known request when it is to store it; one that comes again is answered too
            # where it could not begin now.
            known = (
                await self._store.find_request(namespace, request.request_id) if request.request_id else None
            )
            if known is None:
                raise
            return _same(known, digest)
        while True:
            try:
                return await self._create(namespace, request, digest, resolved, definition)
            except SessionTakenError:
                continue  # the generated id exists: draw again

    async def _create(
        self,
        namespace: str,
        request: RunRequest,
        digest: bytes,
        resolved: ResolveComponentResponse,
        definition: bytes,
    ) -> RunRow:
        run_id = new_run_id()
        row = RunRow(
            run_id=run_id,
            namespace=namespace,
            root_run_id=run_id,
            request_id=request.request_id,
            request_digest=digest,
            target_kind=resolved.component.kind,
            target_name=resolved.component.name,
            target_version=resolved.component.version,
            session_id=request.session_id or f"agent-{secrets.token_hex(4)}",
            create_us=now_us(),
            request=request.SerializeToString(),
            definition=definition,
            writer=self._supervisor.new_writer(),
            lease_us=self._supervisor.lease_us(),
        )
        event = run_started(row, request, resolved)
        first = encode_record(run_id, row.writer, [event], 1)
        stored = await self._supervisor.accept(row, first, new_session=not request.session_id)
        return stored if stored.run_id == run_id else _same(stored, digest)


def new_run_id() -> str:
    """`run-` and 24 hex digits; ids made later sort later, which keeps the store's pages together."""
    return f"run-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def _same(known: RunRow, digest: bytes) -> RunRow:
    if known.request_digest != digest:
        raise RequestIdReusedError(
            f"request_id {known.request_id!r} was used for another request, which is {known.run_id}: "
            "choose a new one for each run",
            request_id=known.request_id,
            run_id=known.run_id,
        )
    return known


def _check(request: RunRequest) -> None:
    violations = list(_violations(request))
    if violations:
        raise InvalidArgumentError("the run cannot be accepted as it is", violations=violations)


def _violations(request: RunRequest) -> "list[Violation]":
    found = []
    if not request.target.name:
        found.append(Violation("run.target.name", "is missing: name the agent to run"))
    if request.target.version:
        found.append(Violation("run.target.version", "runs use the current version: leave it 0"))
    size = len(request.message.encode())
    if not size:
        found.append(Violation("run.message", "is empty: say what to ask"))
    if size > MAX_MESSAGE_BYTES:
        found.append(
            Violation("run.message", f"has {size} bytes and a run takes {MAX_MESSAGE_BYTES}: send less")
        )
    if len(request.session_id) > MAX_SESSION_ID:
        found.append(Violation("run.session_id", f"is longer than {MAX_SESSION_ID} characters"))
    if len(request.request_id) > MAX_REQUEST_ID:
        found.append(Violation("run.request_id", f"is longer than {MAX_REQUEST_ID} characters"))
    if len(request.labels) > MAX_LABELS:
        found.append(Violation("run.labels", f"are more than {MAX_LABELS}"))
    found.extend(
        Violation(f"run.labels[{name!r}]", f"is longer than {MAX_LABEL} characters")
        for name, value in request.labels.items()
        if len(name) > MAX_LABEL or len(value) > MAX_LABEL
    )
    return found + _option_violations(request.options)


def _option_violations(options: run_pb2.RunOptions) -> "list[Violation]":
    found = []
    for name, least, most in (("max_iterations", 1, 1000), ("tool_concurrency", 1, 128)):
        value = getattr(options, name)
        if options.HasField(name) and not least <= value <= most:  # type: ignore[arg-type]
            found.append(Violation(f"run.options.{name}", f"is {value}: use {least} to {most}"))
    if options.HasField("timeout") and options.timeout.ToNanoseconds() <= 0:
        found.append(Violation("run.options.timeout", "must be above 0"))
    budget = options.budget
    for name, least in (("max_tokens", 1), ("max_cost_nano_usd", 0), ("max_tool_calls", 0)):
        if budget.HasField(name) and getattr(budget, name) < least:  # type: ignore[arg-type]
            found.append(Violation(f"run.options.budget.{name}", f"must be at least {least}"))
    generation = options.generation
    for name, least_f, most_f in (("temperature", 0, 2), ("top_p", 0, 1)):
        value = getattr(generation, name)
        if generation.HasField(name) and not least_f <= value <= most_f:  # type: ignore[arg-type]
            found.append(
                Violation(f"run.options.generation.{name}", f"is {value}: use {least_f} to {most_f}")
            )
    if generation.HasField("max_output_tokens") and generation.max_output_tokens < 1:
        found.append(Violation("run.options.generation.max_output_tokens", "must be at least 1"))
    if len(generation.stop) > 4:  # noqa: PLR2004 - what the OpenAI protocol takes
        found.append(Violation("run.options.generation.stop", "are more than 4"))
    return found
