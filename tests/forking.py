"""Fresh processes without their imports: a process that has imported training and computed nothing forks one per command.

`python()` is a command that takes what Python takes: `-m module`, `-c code` or a file, and arguments. The process that it stands
for has its environment, working folder, network, standard input and output, and leads a session of its own; signals that the
command gets are passed on, it ends as the process ends, and takes it along where it is killed. What is imported, all of these have
in common: a test of imports or of start-up needs `sys.executable`.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

IMPORTED = ("melfusion.torture.report", "melfusion.verbs.train", "melfusion.evaluation.scores", "torch.distributed.run")

# Isolated and without site-packages, so that it starts in milliseconds
COMMAND = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.getpid()]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    pid = int.from_bytes(server.recv(8), "big")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = int.from_bytes(server.recv(8) or (1).to_bytes(8, "big"), "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> str:
    """Path of the command. The process that forks starts with the first call, and ends with the process that called it."""
    folder = Path(tempfile.mkdtemp(prefix="melfusion-"))  # not below pytest's: the address of a socket has to be short
    command, address = folder / "python", str(folder / "socket")
    command.write_text(COMMAND.format(python=sys.executable, address=address))
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        call = [sys.executable, __file__, str(listening.fileno()), str(command)]
        # its input, which nobody writes to, closes when this process ends
        python.server = subprocess.Popen(call, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], start_new_session=True)
    subprocess.run([command, "-c", ""], check=True)  # its imports are nobody's time
    return str(command)


class Server:
    """Forks a child for each command that connects, and tells it how the child ended."""

    def __init__(self, handle: int, command: str):
        self.listening, self.command = socket.socket(fileno=handle), command
        self.selector, self.children = selectors.DefaultSelector(), {}  # the commands that wait → their processes
        self.ended, self.wake = os.pipe2(os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake)
        for source in (0, self.listening, self.ended):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        """Returns in each child, which then is the process that its command asks for."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    self.leave()
                elif key.fileobj == self.ended:
                    self.reap()
                elif key.fileobj in self.children:  # the command was killed
                    self.selector.unregister(key.fileobj)
                    kill(self.children[key.fileobj])
                elif key.fileobj is self.listening and self.is_child():
                    return

    def is_child(self) -> bool:
        client = self.listening.accept()[0]
        request, handles = received(client)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.selector.close()
            for one in (self.listening, client, *self.children):
                one.close()
            os.close(self.ended), os.close(self.wake)
            os.setsid()
            take_over(*request, handles)
            sys.executable = self.command
            return True
        for handle in handles:
            os.close(handle)
        tell(client, pid)
        self.children[client] = pid
        self.selector.register(client, selectors.EVENT_READ)
        return False

    def reap(self) -> None:
        os.read(self.ended, 4096)
        for client, pid in list(self.children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                if client in {key.fileobj for key in self.selector.get_map().values()}:
                    self.selector.unregister(client)
                    tell(client, os.waitstatus_to_exitcode(status))
                client.close()
                del self.children[client]

    def leave(self) -> None:
        for pid in self.children.values():
            kill(pid)
        shutil.rmtree(Path(self.command).parent)
        os._exit(0)


def kill(pid: int) -> None:
    """A child and the processes of its session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has none yet
        os.kill(pid, signal.SIGKILL)


def tell(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the command may be gone
        client.sendall(number.to_bytes(8, "big", signed=True))


def received(client: socket.socket):
    """What a command asks for, as COMMAND sends it, and its three open files."""
    size, handles, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(size, "big"))), handles


def take_over(arguments, environment, folder, asking, handles) -> None:
    """Give this process what the command has."""
    from lightning.fabric.utilities.rank_zero import _get_rank

    from melfusion.training.lightning_private import set_rank

    for number, handle in enumerate(handles):
        os.dup2(handle, number)
        os.close(handle)
    network = Path(f"/proc/{asking}/ns/net")
    if network.readlink() != Path("/proc/self/ns/net").readlink():
        with network.open() as handle:
            assert ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    tempfile.tempdir, sys.argv[:] = None, arguments
    set_rank(_get_rank() or 0)  # the import has read it from another environment


def execute(first: str, *rest: str) -> None:
    """What Python does with its arguments."""
    sys.path[0] = str(Path.cwd())
    if first == "-u":
        execute(*rest)
    elif first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def exit_code() -> int:
    """Execute, and end as Python does, only that what was imported is not taken down, for that takes a second."""
    code = 1
    try:
        execute(*sys.argv)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else print(left.code, file=sys.stderr) or 1
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    return code


if __name__ == "__main__":
    server = Server(int(sys.argv[1]), sys.argv[2])
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # a child that collects garbage copies nothing of it
    server.serve()
    os._exit(exit_code())
