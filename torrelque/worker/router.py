"""Handles several kinds of tasks on one queue, each with its own function."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from functools import partial
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from torrelque import (
    EnqueueItem,
    Reject,
    Task,
    Torrelque,
    TorrelqueError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    serialisers,
)
from torrelque import retry as policies
from torrelque.core import checks
from torrelque.core.callables import check_callable, check_plain_function, is_coroutine_function
from torrelque.core.models import KIND
from torrelque.worker.failures import describe, understand

__all__ = ('Handler', 'Kind', 'Router', 'Unfit')

logger: logging.Logger = logging.getLogger('torrelque.worker')

P = TypeVar('P')
R = TypeVar('R')

Scheduled_co = TypeVar('Scheduled_co', covariant=True)

Convert = Callable[[Any], Any]


class Scheduling(Protocol[Scheduled_co]):
    """A queue that keeps schedules: a `torrelque.Torrelque`, or a blocking `torrelque.sync.Torrelque`."""

    def schedule(self, *args: Any, **options: Any) -> Scheduled_co: ...  # noqa: ANN401 - those of the queue


class Unfit(Exception):  # noqa: N818 - not raised by users
    """The handler returned, but its result cannot be converted. ``__cause__`` says why."""


class Handler:
    """A function that a worker calls with a task.

    Args:
        function: Takes the task, and dependencies as keyword-only parameters.
        kind: The kind of tasks that it handles, for messages.
        time_limit: Maximum duration of a call, in seconds.
        retry: The retry policy of this kind.
    """

    __slots__ = ('_kind', 'call', 'in_thread', 'retry', 'time_limit')

    def __init__(
        self,
        function: Callable[..., Any],
        kind: str = '',
        time_limit: float | None = None,
        retry: policies.RetryPolicy | None = None,
    ) -> None:
        self.call: Callable[..., Any] = function
        self.in_thread: bool = not is_coroutine_function(function)
        self.time_limit: float | None = time_limit
        self.retry: policies.RetryPolicy | None = retry
        self._kind = kind

    def bind(self, context: Any, function: Callable[..., Any]) -> None:  # noqa: ANN401 - the user's
        """Pass the function the dependencies that its keyword-only parameters name.

        Args:
            context: A mapping, or an object with attributes.
            function: The user's own function, which has these parameters.

        Raises:
            TorrelqueUsageError: The context lacks a parameter that has no default.
        """
        found: dict[str, Any] = {}
        for name, required in _dependencies_of(function).items():
            if name == 'context':
                found[name] = context
            elif isinstance(context, Mapping) and name in context:
                found[name] = context[name]
            elif not isinstance(context, Mapping) and hasattr(context, name):
                found[name] = getattr(context, name)
            elif required:
                whose = f'the handler of {self._kind!r}' if self._kind else 'the handler'
                raise TorrelqueUsageError(f'{whose} needs {name!r}, which is missing in the context of the worker')
        if found:
            self.call = partial(self.call, **found)


class Kind(Generic[P, R]):
    """One kind of tasks, returned by `Router.task`. Calling it calls the decorated function."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        hints: Mapping[str, Any],
        make: Callable[[Any], Any],
        time_limit: float | None,
        retry: policies.RetryPolicy | None,
    ) -> None:
        self.name: str = name
        self.function: Callable[..., Any] = function
        self._time_limit = time_limit
        self._retry = retry
        self._wants_payload = self._wants_task = False
        self._task_names: list[str] = []
        payload: Any = Any
        for at, parameter in enumerate(_positional(function)):
            hint = hints.get(parameter.name, Any)
            if _is_task(hint):
                if at:
                    self._task_names.append(parameter.name)
                else:
                    self._wants_task = True
                    payload = (*get_args(hint), Any)[0]
            elif not at:
                self._wants_payload = True
                payload = hint
            elif parameter.default is parameter.empty:
                raise TorrelqueTypeError(
                    f'parameter {parameter.name!r} of the handler of {name!r} is neither the payload, nor a Task, '
                    'nor keyword-only'
                )
        self._dump, self._load = _conversion(payload, make)
        self._dump_result, self._load_result = _conversion(hints.get('return', Any), make)

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - the function's
        """Call the function itself, for example in tests."""
        return self.function(*args, **options)

    def item(
        self,
        payload: P,
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        task_id: str | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        if_exists: Literal['ignore', 'raise', 'replace'] | None = None,
        replace: bool = False,
        expires_in: float | None = None,
        expires_at: datetime | float | None = None,
        on_expiry: Literal['drop', 'reject'] | None = None,
        group: str | None = None,
        priority: Literal['high', 'normal', 'low'] | None = None,
    ) -> EnqueueItem[Any]:
        """Create an item for :meth:`torrelque.Torrelque.enqueue_many`.

        Args:
            payload: The function's argument.
            task_timeout: Seconds that a consumer may hold the task before its lease expires.
            delay: Seconds until the task is due.
            task_id: Your own id.
            max_dequeues: Deliveries after which the task becomes a dead letter.
            headers: Strings that travel with the task.
            time_limit: Seconds that the function may take; overrides the limits of the kind and of the worker.
            if_exists: What to do if there is a task with this id.
            replace: True is short for ``if_exists='replace'``.
            expires_in: Seconds after which no consumer gets the task.
            expires_at: The same as a point in time: a datetime with a time zone, or a Unix time.
            on_expiry: Whether to ``'drop'`` a task that expires, or to ``'reject'`` it.
            group: The group that the task belongs to.
            priority: The priority of a task without a group.

        Returns:
            The item.
        """
        named = {**(headers or {}), KIND: self.name}
        known = (task_timeout, delay, task_id, max_dequeues, named, time_limit, if_exists, replace)
        return EnqueueItem(self._dump(payload), *known, expires_in, expires_at, on_expiry, group, priority)

    async def enqueue(
        self,
        queue: Torrelque[Any],
        payload: P,
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        pipeline: object = None,
        task_id: str | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        if_exists: Literal['ignore', 'raise', 'replace'] | None = None,
        replace: bool = False,
        expires_in: float | None = None,
        expires_at: datetime | float | None = None,
        on_expiry: Literal['drop', 'reject'] | None = None,
        group: str | None = None,
        priority: Literal['high', 'normal', 'low'] | None = None,
    ) -> str:
        """Add a task of this kind. Arguments, result and errors are those of :meth:`torrelque.Torrelque.enqueue`.

        Args:
            queue: The queue to add it to.
            payload: The function's argument.
            task_timeout: Seconds that a consumer may hold the task before its lease expires.
            delay: Seconds until the task is due.
            pipeline: A pipeline of redis-py or coredis.
            task_id: Your own id.
            max_dequeues: Deliveries after which the task becomes a dead letter.
            headers: Strings that travel with the task.
            time_limit: Seconds that the function may take; overrides the limits of the kind and of the worker.
            if_exists: What to do if there is a task with this id.
            replace: True is short for ``if_exists='replace'``.
            expires_in: Seconds after which no consumer gets the task.
            expires_at: The same as a point in time: a datetime with a time zone, or a Unix time.
            on_expiry: Whether to ``'drop'`` a task that expires, or to ``'reject'`` it.
            group: The group that the task belongs to.
            priority: The priority of a task without a group.

        Returns:
            The task's id.
        """
        return await queue.enqueue(
            self._dump(payload),
            task_timeout=task_timeout,
            delay=delay,
            pipeline=pipeline,
            task_id=task_id,
            max_dequeues=max_dequeues,
            headers={**(headers or {}), KIND: self.name},
            time_limit=time_limit,
            if_exists=if_exists,
            replace=replace,
            expires_in=expires_in,
            expires_at=expires_at,
            on_expiry=on_expiry,
            group=group,
            priority=priority,
        )

    def schedule(
        self,
        queue: Scheduling[Scheduled_co],
        schedule_id: str,
        payload: P,
        *,
        cron: str | None = None,
        tz: str | None = None,
        every: float | None = None,
        missed: Literal['skip', 'all'] = 'skip',
        overlap: bool = True,
        owner: str | None = None,
        task_timeout: float | None = None,
        delay: float | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        expires_in: float | None = None,
        on_expiry: Literal['drop', 'reject'] | None = None,
        group: str | None = None,
        priority: Literal['high', 'normal', 'low'] | None = None,
    ) -> Scheduled_co:
        """Have a queue add a task of this kind at regular times, or change that schedule.

        ``await`` the call, unless the queue is a :class:`torrelque.sync.Torrelque`. Errors are those of
        :meth:`torrelque.Torrelque.schedule`. Safe to cancel and to repeat.

        Args:
            queue: The queue that keeps the schedule.
            schedule_id: The id of the schedule, without ``@``.
            payload: The function's argument.
            cron: A cron expression, such as ``'0 7 * * mon-fri'``.
            tz: The time zone of ``cron``, such as ``'Europe/Vienna'``. None is UTC.
            every: Seconds between two times.
            missed: Whether to make up for the last missed time only (``'skip'``), or for each (``'all'``).
            overlap: Whether to add a task while the last one is still queued or being worked on.
            owner: Only calls with the same owner may then change the schedule.
            task_timeout: Seconds that a consumer may hold a task before its lease expires.
            delay: Seconds, from the schedule's time.
            max_dequeues: Deliveries after which a task becomes a dead letter.
            headers: Strings that travel with each task.
            time_limit: Seconds that the function may take; overrides the limits of the kind and of the worker.
            expires_in: Seconds, from the schedule's time, after which a task is no longer delivered.
            on_expiry: Whether to ``'drop'`` a task that expires, or to ``'reject'`` it.
            group: The group that the tasks belong to.
            priority: The priority of tasks without a group.

        Returns:
            What the queue's own `schedule` returns: an awaitable, or None.
        """
        return queue.schedule(
            schedule_id,
            self._dump(payload),
            cron=cron,
            tz=tz,
            every=every,
            missed=missed,
            overlap=overlap,
            owner=owner,
            task_timeout=task_timeout,
            delay=delay,
            max_dequeues=max_dequeues,
            headers={**(headers or {}), KIND: self.name},
            time_limit=time_limit,
            expires_in=expires_in,
            on_expiry=on_expiry,
            group=group,
            priority=priority,
        )

    async def result(self, queue: Torrelque[Any], task_id: str, timeout: float | None = None) -> R:
        """Wait until a task ends, and return its function's result.

        Safe to cancel, and to repeat while the result is kept.

        Args:
            queue: The queue that the task is in.
            task_id: The task's id.
            timeout: Maximum time to wait, in seconds. None or 0 sets no limit.

        Returns:
            The result, converted to the return type of the function.

        Raises:
            TorrelqueError: The task was rejected (the message gives the reason), or it expired.
            TorrelqueLookupError: The task is unknown; see :meth:`torrelque.Torrelque.wait`.
            TorrelqueTimeoutError: The task did not end in time.
        """
        state = await queue.wait(task_id, timeout)
        if state.status is TorrelqueTaskStatus.REJECTED:
            raise TorrelqueError(f'task {str(task_id)!r} was rejected: {state.reason}')
        if state.status is TorrelqueTaskStatus.EXPIRED:
            raise TorrelqueError(f'task {str(task_id)!r} expired before it was started')
        return cast('R', None if state.result is None else self._load_result(state.result))

    def handler(self, context: Any) -> Handler:  # noqa: ANN401 - the user's
        """Return the handler with which a worker with this context calls the function."""
        function = self.function

        def arguments(task: Task[Any]) -> tuple[list[Any], dict[str, Any]]:
            names = dict.fromkeys(self._task_names, task)
            if not (self._wants_payload or self._wants_task):
                return [], names
            try:
                payload = self._load(task.data)
            except Exception as error:
                logger.warning('Cannot deserialise task:%s, rejecting it: %s', task.id, describe(error))
                raise Reject(f'its payload is not one of {self.name!r}: {describe(error)}'[:1000]) from error
            return [task.with_data(payload) if self._wants_task else payload], names

        def convert(result: Any) -> Any:  # noqa: ANN401 - the user's
            try:
                return None if result is None else self._dump_result(result)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a model raises
                raise Unfit from understand(error).error

        def call_plainly(task: Task[Any], **options: Any) -> Any:  # noqa: ANN401 - what the function returns
            given, names = arguments(task)
            result = function(*given, **names, **options)
            return _converted(result, convert) if inspect.isawaitable(result) else convert(result)

        async def call(task: Task[Any], **options: Any) -> Any:  # noqa: ANN401 - what the function returns
            given, names = arguments(task)
            return convert(await function(*given, **names, **options))

        handler = Handler(
            call if is_coroutine_function(function) else call_plainly, self.name, self._time_limit, self._retry
        )
        handler.bind(context, function)
        return handler


async def _converted(result: Awaitable[Any], convert: Convert) -> Any:  # noqa: ANN401 - the user's
    return convert(await result)


class Router:
    """Calls a different function for each kind of tasks on one queue.

    ::

        router = Router()

        @router.task('email.send')
        async def send(mail: Email) -> None: ...

        await send.enqueue(queue, Email('joe@example.org'))
        await Worker(queue, router, concurrency=10).run()

    The kind travels in the header ``torrelque.kind``. A task of an unknown kind, or of none, becomes a dead letter.
    The queue's serialiser serialises payloads and results after the router has converted them to types
    that JSON knows, by the annotations of the functions.

    Args:
        serialiser: Creates a serialiser for an annotation, like ``serialisers.pydantic`` or ``serialisers.msgspec``.
            By default those are used for pydantic models and msgspec structs, dataclasses become dicts of their
            fields, and everything else is left to the queue's serialiser.
    """

    def __init__(self, serialiser: Callable[[Any], serialisers.Serialiser[Any]] | None = None) -> None:
        self._make = (
            _serialiser_of if serialiser is None else check_plain_function('serialiser', serialiser, 'annotation')
        )
        self._kinds: dict[str, Kind[Any, Any]] = {}

    @property
    def kinds(self) -> Mapping[str, Kind[Any, Any]]:
        """The kinds by name."""
        return dict(self._kinds)

    def task(
        self, name: str, *, time_limit: float | None = None, retry: policies.RetryPolicy | None = None
    ) -> _Decorator:
        """Decorate the function that handles a kind of tasks.

        Its first parameter is the payload, unless it is annotated as :class:`~torrelque.Task`. Any parameter with
        this annotation is the task. Keyword-only parameters are dependencies from the worker's context. A function
        without positional parameters is called without the payload.

        Args:
            name: The kind. Producers and workers must use the same name.
            time_limit: Maximum duration of a call, in seconds. None uses the worker's.
            retry: The retry policy of this kind. None uses the worker's.

        Returns:
            A decorator that turns the function into a :class:`Kind`.

        Raises:
            TorrelqueTypeError: An argument or a parameter of the function has a bad type, or an annotation
                cannot be resolved.
            TorrelqueValueError: The name is empty or taken.
        """
        checks.check_text('name', name)
        if name in self._kinds:
            raise TorrelqueValueError(f'{name!r} already has a handler')
        if time_limit is not None:
            time_limit = checks.check_time_limit(time_limit)
        if retry is not None:
            check_plain_function('retry', retry, 'attempt', 'error')
        return _Decorator(self._kinds, name, self._make, time_limit, retry)

    def include(self, *routers: Router) -> None:
        """Add the kinds of other routers.

        Args:
            routers: The other routers.

        Raises:
            TorrelqueValueError: Two kinds have the same name. None was added.
        """
        added: dict[str, Kind[Any, Any]] = {}
        for router in routers:
            if taken := router.kinds.keys() & {*self._kinds, *added}:
                raise TorrelqueValueError(f'{min(taken)!r} already has a handler')
            added.update(router.kinds)
        self._kinds.update(added)


class _Decorator:
    def __init__(self, kinds: dict[str, Kind[Any, Any]], name: str, *options: Any) -> None:  # noqa: ANN401 - of Kind
        self._kinds = kinds
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[Concatenate[Task[P], ...], Awaitable[R]], /) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Task[P], ...], R], /) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[P, ...], Awaitable[R]], /) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[P, ...], R], /) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[[], Awaitable[R]], /) -> Kind[None, R]: ...
    @overload
    def __call__(self, function: Callable[[], R], /) -> Kind[None, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Kind[Any, Any]:
        check_callable('handler', function)
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None  # its local classes can occur in annotations
        try:
            hints = get_type_hints(function, localns={} if caller is None else {**caller.f_globals, **caller.f_locals})
        except NameError as error:
            raise TorrelqueTypeError(f'the annotations of the handler of {self._name!r} are unknown: {error}') from None
        except TypeError:  # a callable object without annotations
            hints = {}
        finally:
            del frame, caller
        make, time_limit, retry = self._options
        kind = self._kinds[self._name] = Kind[Any, Any](self._name, function, hints, make, time_limit, retry)
        return kind


# Parameters ----------------------------------------------------------------------------------------------------------


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin, for example
        return ()


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in _parameters(function) if parameter.kind in kinds]


def _dependencies_of(function: Callable[..., Any]) -> dict[str, bool]:
    """Return the names of the keyword-only parameters, and whether each is required."""
    return {
        parameter.name: parameter.default is parameter.empty
        for parameter in _parameters(function)
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _is_task(hint: Any) -> bool:  # noqa: ANN401 - the type is what is checked
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Task)


# Conversion ----------------------------------------------------------------------------------------------------------


def _itself(value: Any) -> Any:  # noqa: ANN401 - any value
    return value


def _conversion(hint: Any, make: Callable[[Any], Any]) -> tuple[Convert, Convert]:  # noqa: ANN401 - an annotation
    """Return functions that convert values of a type for the queue's serialiser, and back."""
    if hint in (Any, None, type(None)):
        return _itself, _itself
    serialiser = make(hint)
    if serialiser is None:
        return _itself, _itself
    if hasattr(serialiser, 'to_builtins'):
        return serialiser.to_builtins, serialiser.from_builtins
    plain = serialisers.JSON
    return lambda value: plain.loads(serialiser.dumps(value)), lambda value: serialiser.loads(plain.dumps(value))


def _serialiser_of(hint: Any) -> Any:  # noqa: ANN401 - an annotation
    if not isinstance(hint, type):
        return None
    if hasattr(hint, '__pydantic_serializer__'):
        return serialisers.pydantic(hint)
    if hasattr(hint, '__struct_fields__'):
        return serialisers.msgspec(hint)
    return _Dataclass(hint) if is_dataclass(hint) else None


class _Dataclass:
    """Converts a dataclass to a dict of its fields, recursively, and back."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        try:
            hints = get_type_hints(kind)
        except NameError:  # a class that is local to a function
            hints = {}
        self._nested = {
            name: _Dataclass(hint) for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
        }

    def to_builtins(self, value: Any) -> Any:  # noqa: ANN401 - an instance
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    def from_builtins(self, value: Any) -> Any:  # noqa: ANN401 - a dict
        if not isinstance(value, Mapping):
            raise TorrelqueTypeError(f'expected the fields of {self._kind.__name__}, got {type(value).__name__}')
        return self._kind(
            **{
                name: self._nested[name].from_builtins(field) if name in self._nested else field
                for name, field in value.items()
            }
        )
