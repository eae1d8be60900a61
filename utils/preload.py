"""Run `python PROGRAM ARGUMENT ...` in forks of one Python, which has imported what takes long.

    preload.py serve SOCKET MODULE ...              import the modules; then fork for all that ask
    preload.py run PID SOCKET PROGRAM ARGUMENT ...  run a program there, as if it were run here

A program is `-m MODULE`, or a file. `run` passes on its arguments, environment, folder, stdin,
stdout and stderr, and exits as the program does. Where process PID, the server, has ended, it runs
the program itself. `serve` ends with the process that started it or, where jobs outlive that, with
the last of them: the launcher stops them as descendants of the server.
"""

import atexit
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress

LOOK = 0.5  # seconds between two looks at whether the parent is still there
# Between two tries to reach a server that starts, in seconds; and their number, for one that has
# ended may still be listed.
RETRY, TRIES = 0.05, 200
STREAMS = (0, 1, 2)
STARTED = b"s"  # the server's first answer; an exit status follows
KILLED = 137  # where none does, the fork was killed with what watched it
INTERRUPTED = 130

statuses: list[int] = []  # with which the job of this process ends, once it has


def serve(path: str, *modules: str) -> None:
    """Import the modules, then fork for each job until the parent and all jobs are gone."""
    import gc
    from importlib import import_module

    atexit.register(_leave)  # before all others, so that it is called behind them
    parent = os.getppid()
    sys.path[0] = os.getcwd()  # as `python -m` does
    server = socket.socket(socket.AF_UNIX)
    _in_folder_of(path, server.bind)
    server.listen(64)  # jobs wait while modules are imported
    ignored = signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are jobs, Ctrl-C ends it
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # another look at a GPU bars it from forks
    gc.disable()  # a tenth of the time would go into looking for garbage, and find none
    for module in modules:
        import_module(module)
    gc.freeze()  # what is here stays shared with the forks
    gc.enable()
    signal.signal(signal.SIGINT, ignored)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that end leave no zombies
    server.settimeout(LOOK)
    while os.getppid() == parent or _has_jobs():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            connection.setblocking(True)
            _attend(connection)
        connection.close()
    with suppress(OSError):  # nobody else is left to do so
        os.remove(path)
        os.rmdir(os.path.dirname(path))


def _has_jobs() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _attend(connection: socket.socket) -> None:
    """In a process of its own: run one job in a fork, and tell its exit status."""
    _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
    with connection.makefile("rb") as file:
        job = json.load(file)
    try:
        connection.send(STARTED)
    except OSError:  # nobody waits any more
        os._exit(0)
    process = os.fork()
    if process:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with suppress(OSError):  # nobody waits any more
            connection.send(bytes([status if status >= 0 else 128 - status]))
        os._exit(0)
    connection.close()
    for stream, given in zip(STREAMS, streams, strict=True):
        os.dup2(given, stream)
        os.close(given)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    try:
        _run_program(*job["command"])
    except BaseException as end:
        statuses.append(_exit_status(end))
        raise


def _run_program(program: str, *arguments: str) -> None:
    import runpy

    if program == "-m":
        sys.argv = [*arguments]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *arguments]
        sys.path[0] = os.path.dirname(os.path.abspath(program))
        runpy.run_path(program, run_name="__main__")
    sys.exit()


def _exit_status(end: BaseException) -> int:
    """With what Python would end for an exception that nobody caught."""
    if isinstance(end, SystemExit):
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return INTERRUPTED if isinstance(end, KeyboardInterrupt) else 1


def _leave() -> None:
    """End the process of a job when all else is done for its exit.

    Python would clear away its modules first, for half a second, longer than many a job takes.
    """
    if statuses:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(statuses[0])


def run(server: str, path: str, *command: str) -> None:
    """Run a program in a fork of the server, or, where there is none, in this process's place."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback
    job = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
    with suppress(OSError), _connect(int(server), path) as connection:
        socket.send_fds(connection, [b"j"], STREAMS)
        connection.sendall(json.dumps(job).encode())
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) == STARTED:
            status = connection.recv(1)
            os._exit(status[0] if status else KILLED)
    os.execv(sys.executable, [sys.executable, *command])


def _connect(server: int, path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    for _ in range(TRIES):
        with suppress(FileNotFoundError, ConnectionRefusedError):
            _in_folder_of(path, connection.connect)
            break
        os.kill(server, 0)  # raises where it has ended
        time.sleep(RETRY)
    return connection


def _in_folder_of(path, call):  # type: ignore[no-untyped-def]
    """Call with the name alone: the path of a socket has 107 bytes at most."""
    folder = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        call(os.path.basename(path))
    finally:
        os.chdir(folder)


if __name__ == "__main__":
    task, *words = sys.argv[1:]
    {"serve": serve, "run": run}[task](*words)
