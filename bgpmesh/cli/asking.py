"""What is asked of the daemon: the request, its answer as JSON or as people read it, and the exit code that it is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bgpmesh.control import client, tables
from bgpmesh.control.cells import clean, each_of, field

DONE, NO, BAD, NO_DAEMON = 0, 1, 2, 3

Arguments = argparse.Namespace
Row = Mapping[str, object]
Show = Callable[[object], str]
Judge = Callable[[object], int]


def outcome(arguments: Arguments) -> int:
    """Run the command that was asked for; return its exit code."""
    try:
        code: int = arguments.run(arguments)
    except client.NoDaemonError as error:
        return fail(arguments, str(error), NO_DAEMON)
    except client.RefusedError as error:
        return refuse(arguments, error.problems, NO if error.kind == "not-found" else BAD)
    return code


# ── what is printed ──────────────────────────────────────────────────────────


def say(arguments: Arguments, result: object, show: Show) -> None:
    """Print an answer."""
    text = json.dumps(result, indent=2) if arguments.json else show(result)
    print(text)  # noqa: T201  this is what a command is for


def fail(arguments: Arguments, text: str, code: int) -> int:
    """Say why nothing was done, as text or as JSON."""
    return refuse(arguments, [{"file": "", "key": "", "value": "", "reason": text}], code)


def refuse(arguments: Arguments, problems: Sequence[Row | dict[str, str]], code: int = BAD) -> int:
    """Say every problem, one a line, on standard error; with --json all of them on standard output."""
    if arguments.json:
        print(json.dumps({"errors": list(problems)}, indent=2))  # noqa: T201  this is what a command is for
    else:
        for problem in problems:
            print(f"bgpmesh: {_problem(problem)}", file=sys.stderr)  # noqa: T201  the same
    return code


def _problem(problem: Row) -> str:
    """Return `file: key = value: reason` (as `errors.Problem` says it), without what is empty."""
    file, key, value, reason = (str(problem.get(part, "")) for part in ("file", "key", "value", "reason"))
    return clean(": ".join(part for part in (file, f"{key} = {value}" if value else key, reason) if part))


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


# ── what is asked ────────────────────────────────────────────────────────────


def asks(
    command: str,
    show: Show | str,
    *keys: str,
    judge: Judge = lambda _: DONE,
    timeout_s: float | None = client.TIMEOUT_S,
) -> Callable[[Arguments], int]:
    """Return a command that asks the daemon with these of its arguments; a text to show has arguments in it."""

    def run(arguments: Arguments) -> int:
        shown = show if callable(show) else lambda _: show.format(**vars(arguments))
        return _ask(arguments, command, _picked(arguments, keys), shown, judge=judge, timeout_s=timeout_s)

    return run


def yes_if(key: str, *, value: object) -> Judge:
    """Return what judges an answer by one member of it: done, or no."""
    return lambda result: DONE if field(result, key) == value else NO


def all_fixed(result: object) -> int:
    """Judge what `pool check` found: done, where nothing is held in vain any more."""
    leaks = each_of(field(result, "leaks"))
    return DONE if all(field(leak, "fixed") for leak in leaks) else NO


def one(show: Show) -> Show:
    """Return what shows a single row as a table."""
    return lambda result: show([result])


def _picked(arguments: Arguments, keys: Sequence[str]) -> dict[str, object]:
    return {key: getattr(arguments, key) for key in keys}


def _ask(
    arguments: Arguments,
    command: str,
    args: Mapping[str, object],
    show: Show,
    *,
    descriptors: Sequence[int] = (),
    judge: Judge = lambda _: DONE,
    timeout_s: float | None = client.TIMEOUT_S,
) -> int:
    """Ask the daemon, print its answer, and return the exit code that `judge` sees in it."""
    result = client.call(arguments.socket, command, args, descriptors, timeout_s)
    say(arguments, result, show)
    return judge(result)


def is_answered(socket: str) -> bool:
    """Tell whether a daemon answers there."""
    try:
        client.call(socket, "status", {}, timeout_s=5.0)
    except client.NoDaemonError:
        return False
    except client.RefusedError:
        return True
    return True


def peers(arguments: Arguments) -> int:
    """Print all peers, or one in full."""

    def show(result: object) -> str:
        is_one = arguments.name in {row.get("name") for row in each_of(result)}
        return tables.peer(result) if is_one else tables.peers(result)

    return _ask(arguments, "peers", {"name": arguments.name}, show)


def routes(arguments: Arguments) -> int:
    """Print routes, or what the kernel has of them."""
    args = _picked(arguments, ("prefix", "received", "advertised", "kernel"))
    show = tables.kernel if arguments.kernel else tables.routes
    return _ask(arguments, "routes", args, show, judge=lambda found: DONE if found or not arguments.prefix else NO)


def workload_add(arguments: Arguments) -> int:
    """Hand a network namespace over."""
    path = f"/proc/{arguments.pid}/ns/net" if arguments.netns is None else str(Path(arguments.netns).absolute())
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # nobody may ever write to a fifo
    except OSError as error:
        return fail(arguments, f"{path}: {_why(error)}", BAD)
    args = _picked(arguments, ("name", "namespace", "label", "ip", "port")) | {"netns": path}
    try:
        return _ask(arguments, "workload add", args, one(tables.workloads), descriptors=(descriptor,))
    finally:
        os.close(descriptor)


def floating_ip_add(arguments: Arguments) -> int:
    """Give a workload a floating address; where the workload is not here, which may be yet to come, say so."""
    args = _picked(arguments, ("external", "workload", "namespace", "outbound"))
    result = client.call(arguments.socket, "floating-ip add", args)
    say(arguments, result, one(tables.floating_ips))
    if field(result, "address") is None:
        workload = clean(str(field(result, "workload")))
        print(f"bgpmesh: {arguments.external} leads nowhere until workload {workload} is on this node", file=sys.stderr)  # noqa: T201  how it is
    return DONE


# ── what takes a while ───────────────────────────────────────────────────────


def policy_drops(arguments: Arguments) -> int:
    """Print what was dropped, or each packet as it is dropped."""
    if not arguments.follow:
        return _ask(arguments, "policy drops", {"staged": arguments.staged}, tables.drops)
    for number, told in enumerate(client.follow(arguments.socket, "policy drops", {"follow": True})):
        if number:  # the first says that it has begun
            print(json.dumps(told) if arguments.json else tables.drop(told), flush=True)  # noqa: T201  what it is for
        else:
            print("following; Ctrl-C ends it", file=sys.stderr)  # noqa: T201  the same
    return DONE


def drain(arguments: Arguments) -> int:
    """Take the node out of service, and say how far that is."""
    told = client.follow(arguments.socket, "drain", _picked(arguments, ("limit", "below", "stop", "text")))
    next(told)  # it has begun
    print("draining; it goes on if this command ends, `bgpmesh undrain` takes it back", file=sys.stderr)  # noqa: T201  how it goes
    for progress in told:
        if field(progress, "state") == "draining":
            print(tables.draining(progress), file=sys.stderr, flush=True)  # noqa: T201  the same
        else:
            say(arguments, progress, tables.drained)
            return DONE if field(progress, "state") in {"drained", "stopped"} else NO
    return NO


# ── what is in files ─────────────────────────────────────────────────────────


def reload(arguments: Arguments) -> int:
    """Put a configuration in force: the file's content, so that it need not exist where the daemon lives."""
    return _ask_with_text(arguments, "reload", tables.reload)


def diff(arguments: Arguments) -> int:
    """Print what a configuration, or objects, would change."""

    def judge_objects(result: object) -> int:
        if field(result, "refused"):
            return BAD
        return NO if any(field(result, word) for word in ("added", "changed", "deleted")) else DONE

    if arguments.file is None or _is_configuration(arguments):
        return _ask_with_text(arguments, "diff", tables.plan, judge=yes_if("same", value=True))
    return _change(arguments, "policy preview", {"delete": False}, tables.preview, judge_objects)


def apply(arguments: Arguments) -> int:
    """Put a configuration, or objects, in force."""
    if _is_configuration(arguments):
        return _ask_with_text(arguments, "reload", tables.reload, confirm=arguments.confirm)
    return _change(arguments, "apply", {"confirm": arguments.confirm})


def delete(arguments: Arguments) -> int:
    """Delete the objects of a file, or one by its name."""
    if (arguments.file is None) == (arguments.kind is None) or (arguments.kind and not arguments.name):
        return fail(arguments, "delete takes -f F, or KIND and NAME", BAD)
    if arguments.file is not None:
        return _change(arguments, "delete", {})
    args = _picked(arguments, ("kind", "name", "namespace"))
    return _ask(arguments, "delete", args, tables.changed, judge=_judge_change)


def policy_preview(arguments: Arguments) -> int:
    """Print what applying, or deleting, the objects of a file would do."""

    def judge(result: object) -> int:
        if field(result, "refused"):
            return BAD
        return NO if any(field(result, key) for key in ("cut_count", "kept_count", "unknown")) else DONE

    return _change(arguments, "policy preview", {"delete": arguments.delete}, tables.preview, judge)


def _is_configuration(arguments: Arguments) -> bool:
    """Tell whether a file is the configuration, and not objects; what is in it is `arguments.text` then.

    It may be a pipe, and is read once.
    """
    from bgpmesh import objects  # noqa: PLC0415  only these commands read files

    try:
        is_stdin = arguments.file == "-"
        arguments.text = sys.stdin.read() if is_stdin else objects.text_of(Path(arguments.file))
    except (objects.UnreadableError, ValueError):
        return False  # who reads objects says what is wrong with it
    return objects.is_configuration(arguments.text, arguments.file)


def _ask_with_text(
    arguments: Arguments, command: str, show: Show, *, judge: Judge = lambda _: DONE, **args: object
) -> int:
    """Ask with what is in a file, if one is given."""
    file = arguments.file
    if file is not None:
        try:
            args["text"] = arguments.text if "text" in arguments else Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            return fail(arguments, f"{file}: {_why(error)}", BAD)
        args["file"] = "standard input" if file == "-" else str(Path(file).resolve())
    return _ask(arguments, command, args, show, judge=judge)


def _judge_change(result: object) -> int:
    reasons = {str(field(each, "reason")) for each in each_of(field(result, "refused"))}
    return DONE if not reasons else NO if reasons == {"is not there"} else BAD


def _change(
    arguments: Arguments,
    command: str,
    args: Mapping[str, object],
    show: Show = tables.changed,
    judge: Judge = _judge_change,
) -> int:
    """Hand over the objects of a file (`-`: standard input), as plain data: only here has YAML to be known."""
    from bgpmesh import objects  # noqa: PLC0415  only these commands read files of objects

    try:
        name = "" if arguments.file == "-" else Path(arguments.file).name
        if "text" not in arguments:
            arguments.text = sys.stdin.read() if arguments.file == "-" else objects.text_of(Path(arguments.file))
        documents = objects.parse(arguments.text, name)
        plain = json.loads(json.dumps(documents, default=str))  # YAML and TOML know dates
    except (objects.UnreadableError, ValueError, TypeError, RecursionError) as error:  # YAML has what JSON has not
        return fail(arguments, f"{arguments.file}: {error}", BAD)
    return _ask(arguments, command, {"documents": plain, **args}, show, judge=judge)
