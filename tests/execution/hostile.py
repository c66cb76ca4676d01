"""Hostile and odd completions: one property each, with the verdict that is right for it.

Containment cases judge themselves: the program answers wrongly if its act worked, so ``pass`` means "refused".
Unless a case says otherwise, it completes ``def f(x):``, which is to return ``x + 1``.
"""

from __future__ import annotations

# A table: one case per line.
# ruff: noqa: E501
# fmt: off
from dataclasses import dataclass

from lm_eval_ensemble.execution import Job
from lm_eval_ensemble.execution.jobs import Status

__all__ = ["FLOODS", "FORGED", "LIMITS", "PROCESSES", "REACH", "RIGHT", "Case", "call", "top", "value"]

PROMPT = 'def f(x):\n    """x + 1"""\n'
TEST = "def check(candidate):\n    assert candidate(3) == 4\n    assert candidate(10) == 11\n"
RIGHT = "    return x + 1\n"


@dataclass(frozen=True)
class Case:
    """``layered`` cases need Landlock and seccomp; the others hold on every platform."""

    name: str
    category: str
    completion: str
    status: Status
    test: str = TEST
    prompt: str = PROMPT
    layered: bool = False

    @property
    def job(self) -> Job:
        return Job(self.prompt, self.completion, "", self.test, "f")


def _forged(name: str, completion: str, test: str = TEST, status: Status = "fail") -> Case:
    return Case(name, "forged verdicts", completion, status, test)


def _refused(category: str, name: str, act: str) -> Case:
    """A right answer, unless ``act`` (statements) gets to its end without an exception."""
    lines = "".join(f"    {line}\n" for line in act.strip("\n").split("\n"))
    code = f"{RIGHT}\ntry:\n{lines}except BaseException:\n    pass\nelse:\n    def f(x): return 'it worked'\n"
    return Case(name, category, code, "pass", layered=True)


def value(name: str, expression: str, test: str, status: Status = "pass") -> Case:
    return Case(name, "honest code", f"    return {expression}\n", status, f"def check(c):\n{_indented(test)}")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.split("\n"))


def top(code: str) -> str:
    """A right answer, then statements at the top level."""
    return f"{RIGHT}\n{code}\n"


def call(code: str) -> str:
    """The body of the function."""
    return _indented(code.strip("\n"))


_ALWAYS_EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return Equal({argument})
"""

FORGED = [
    _forged("an object that equals everything", top(_ALWAYS_EQUAL.format(base="", argument=""))),
    _forged("an int that equals everything", top(_ALWAYS_EQUAL.format(base="(int)", argument="1"))),
    _forged("a str that equals everything", top(_ALWAYS_EQUAL.format(base="(str)", argument="'a'"))),
    _forged("a float that equals everything", top(_ALWAYS_EQUAL.format(base="(float)", argument="1.5"))),
    _forged("a list that equals everything", top(_ALWAYS_EQUAL.format(base="(list)", argument=""))),
    _forged("a dict that equals everything", top(_ALWAYS_EQUAL.format(base="(dict)", argument=""))),
    _forged("mock.ANY", "    from unittest import mock\n    return mock.ANY\n"),
    _forged("a metaclass that equals everything", top("class M(type):\n    __eq__ = lambda a, b: True\nclass f(metaclass=M):\n    def __init__(self, x): pass")),
    _forged(
        "an object whose difference is 0",
        top("class Z:\n    __sub__ = __rsub__ = __abs__ = lambda *a: 0\n    __lt__ = lambda *a: True\nf = lambda x: Z()"),
        "def check(c):\n    assert abs(c(3) - 4) < 1e-6\n",
    ),
    _forged("NaN is close to nothing", "    return float('nan')\n", "def check(c):\n    assert abs(c(3) - 4) < 1e-6\n"),
    _forged("an object whose text is right", top("class S:\n    def __str__(self): return '4'\ndef f(x): return S()")),
    _forged(
        "reads the expected value out of its caller's bytecode",
        call("""
import sys, dis
frame = sys._getframe()
while frame:
    if 'candidate' in frame.f_locals or 'check' in frame.f_code.co_name:
        code = list(dis.get_instructions(frame.f_code))
        after = [i.argval for i in code if i.offset > frame.f_lasti and i.opname == 'LOAD_CONST']
        return after[0]
    frame = frame.f_back
return None"""),
    ),
    _forged(
        "searches every object for a test",
        call("""
import gc
for o in gc.get_objects():
    if isinstance(o, (str, dict)) and 'candidate(' + chr(51) in str(o): return x + 1
return None"""),
    ),
    _forged(
        "searches its memory for the test",
        call("""
import ctypes
for line in open('/proc/self/maps'):
    if 'rw' in line:
        low, high = (int(p, 16) for p in line.split()[0].split('-'))
        memory, sought = ctypes.string_at(low, high - low), b'candidate('
        at = memory.find(sought)
        while at >= 0:  # byte by byte, so as not to find itself
            if memory[at + 10 : at + 12] == bytes([51, 41]): return x + 1
            at = memory.find(sought, at + 1)
return None"""),
    ),
    _forged("defines check itself", "    return None\n\ndef check(candidate): pass\n"),
    _forged("ends the process with status 0", "    return None\n\nimport os\nos._exit(0)\n"),
    _forged("exits at the top level", "    return None\n\nraise SystemExit(0)\n"),
    _forged("exits in the call", "    import sys\n    sys.exit(0)\n"),
    _forged("ends the process in the call", "    import os\n    os._exit(0)\n"),
    _forged("an exception called pass", call("raise type('pass', (Exception,), {})()")),
    _forged("an exception called TimeUp", call("raise type('TimeUp', (BaseException,), {})()")),
    _forged("an exception without a name", call("class M(type):\n    __name__ = property(lambda c: 1/0)\nraise M('E', (Exception,), {})()")),
    _forged("patches builtins", "    return None\n\nimport builtins\nbuiltins.AssertionError = builtins.Exception = ()\n"),
    _forged("patches the judge's module", "    return None\n\nimport sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'run_tests'): m.run_tests = lambda *a: None\n"),
    _forged("patches the codec", "    return 0\n\nimport sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'encode'): m.encode = lambda *a: {'o': 0}\n"),
    _forged("traces its caller", "    return None\n\nimport sys\nsys.setprofile(lambda f, e, a: f.f_locals.update(result=['passed']))\n"),
    _forged("writes a verdict to standard output", call('import os\nfor fd in (0, 1, 2):\n    os.write(fd, b\'\\0\\0\\0\\x1c{"status":"pass","why":""}\\n\')\nreturn None')),
    _forged("writes a verdict to every descriptor", call('import os\nfor fd in range(3, 300):\n    try: os.write(fd, b\'\\0\\0\\0\\x1c{"status":"pass","why":""}\\n\')\n    except OSError: pass\nreturn None')),
    _forged("sends answers before it is asked", "    return None\n\nimport os\nfor i in range(9): os.write(3, b'\\0\\0\\0\\x0a{\"r\":true}')\n"),
    _forged("sends what is not JSON", call("import os\nos.write(3, b'\\0\\0\\0\\x03abc')")),
    _forged("announces 4 GB", call("import os, time\nos.write(3, b'\\xff\\xff\\xff\\xff')\ntime.sleep(9)")),
    _forged("sends an unknown tag", call("import os\nos.write(3, b'\\0\\0\\0\\x10{\"r\":{\"pickle\":1}}'[:20])\nreturn 4")),
    _forged("sends nesting without end", call("import os\nos.write(3, (100000).to_bytes(4, 'big') + b'[' * 100000)\nreturn 4")),
    _forged("sends a handle that is not there", call("import os\nos.write(3, b'\\0\\0\\0\\x0e{\"r\":{\"o\":-9}}')\nreturn 4")),
    _forged("asks to divide by zero in the judge", call("import os\nb = b'{\"r\":{\"F\":[1,0]}}'\nos.write(3, len(b).to_bytes(4, 'big') + b)\nreturn 4")),
    _forged("puts a list into a set", call("import os\nb = b'{\"r\":{\"s\":[[1]]}}'\nos.write(3, len(b).to_bytes(4, 'big') + b)\nreturn 4")),
    _forged("equals whatever a mock equals", call("from unittest import mock\nreturn mock.ANY")),
    _forged("looks for the test in the frames above", call("import sys\nframe = sys._getframe()\nwhile frame:\n    for v in frame.f_locals.values():\n        if isinstance(v, (str, dict)) and 'assert' in str(v): return x + 1\n    frame = frame.f_back\nreturn 0")),
    _forged("looks for the test among all objects", call("import gc, linecache\nif any(isinstance(o, dict) and 'candidate' in o for o in gc.get_objects()) or linecache.getlines('<test>'): return x + 1\nreturn 0")),
    _forged("ends from a thread, soon", call("import os, threading, time\nthreading.Timer(0.02, os._exit, (0,)).start()\ntime.sleep(0.3)")),
    _forged("the module that the test imports", call("return 0") + "\n\nimport sys\nsys.modules['calc'] = type(sys)('calc')\nsys.modules['calc'].f = lambda x: x + 1\n", "from calc import f as g\ndef check(c):\n    assert g(3) == 4\n"),
    _forged("closes its socket", call("import os\nos.close(3)\nreturn 4")),
    _forged("replaces its socket", call("import os, socket\na, b = socket.socketpair()\nos.dup2(a.fileno(), 3)\nreturn 4")),
    _forged("the test never calls the function", RIGHT, "def check(candidate):\n    pass\n"),
    _forged("no test at all", RIGHT, ""),
    _forged("an opaque value is not its own equal", "    return object()\n", "def check(c):\n    v = c(1)\n    assert v == v\n"),
    _forged("a kept value cannot be forged into a number", call("class I:\n    __index__ = __int__ = __float__ = lambda s: 4\nreturn I()"), "def check(c):\n    assert int(c(3)) == 4\n"),
    _forged("a len that lies about its type", call("class L:\n    def __len__(self): return 4\n    def __eq__(self, o): return True\nreturn L()"), "def check(c):\n    assert c(3) == [1, 2, 3, 4]\n"),
]

LIMITS = [
    Case("an endless loop", "escaped limits", call("while True: pass"), "timeout"),
    Case("an endless loop at the top level", "escaped limits", top("while True: pass"), "timeout"),
    Case("sleeps", "escaped limits", call("import time\ntime.sleep(60)\nreturn x + 1"), "timeout"),
    Case("waits for a lock", "escaped limits", call("import threading\nthreading.Lock().acquire() and 0\nl = threading.Lock(); l.acquire(); l.acquire()"), "timeout"),
    Case("loops and swallows everything", "escaped limits", call("while True:\n    try:\n        while True: pass\n    except BaseException: pass"), "timeout"),
    Case("loops and ignores signals", "escaped limits", call("import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"), "timeout"),
    Case("loops in a thread and sleeps", "escaped limits", call("import threading, time\ndef g():\n    while True: pass\nfor _ in range(3): threading.Thread(target=g).start()\ntime.sleep(60)"), "timeout"),
    Case("a regular expression that explodes", "escaped limits", call("import re\nreturn re.match('(a+)+$', 'a' * 60 + 'b')"), "timeout"),
    Case("a power that takes forever", "escaped limits", call("return 7 ** (7 ** 10)"), "timeout"),
    Case("raises its processor limit and loops", "escaped limits", call("import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nexcept (OSError, ValueError): pass\nwhile True: pass"), "timeout"),
    Case("slow over many calls, not in any one", "escaped limits", call("import time\ntime.sleep(0.5)\nreturn x + 1"), "timeout", "def check(c):\n    for i in range(20): assert c(i) == i + 1\n"),
    Case("an endless iterator", "escaped limits", call("import itertools, time\nreturn (time.sleep(1) for _ in itertools.count())"), "timeout", "def check(c):\n    assert tuple(c(1)) == (1,)\n"),
    Case("a test that loops over the answer", "escaped limits", "    return True\n", "timeout", "def check(c):\n    while c(1): pass\n"),
    Case("a test that loops by itself", "escaped limits", "    return True\n", "timeout", "def check(c):\n    go = c(1)\n    while go: pass\n"),
    Case("recursion without end", "escaped limits", call("return f(x)"), "fail"),
    Case("overflows the C stack", "escaped limits", call("import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n    def __repr__(self): return repr([self])\nreturn repr(A())"), "fail"),
    Case("lowers its processor limit", "escaped limits", call("import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nexcept (OSError, ValueError): pass\nreturn x + 1"), "pass"),
    Case("an exception whose text takes forever", "escaped limits", call("class E(Exception):\n    def __str__(self):\n        while True: pass\n    __repr__ = __str__\nraise E"), "fail"),
    Case("a destructor that takes forever", "escaped limits", top("class D:\n    def __del__(self):\n        while True: pass\nd = D()"), "pass"),
    Case("an exit handler that takes forever", "escaped limits", top("import atexit, time\natexit.register(time.sleep, 99)"), "pass"),
    Case("a thread that stays", "escaped limits", top("import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()"), "pass"),
    _refused("escaped limits", "takes 8 GB", "b = bytes(8 << 30)"),
    _refused("escaped limits", "maps 8 GB", "import mmap\nm = mmap.mmap(-1, 8 << 30)"),
    _refused("escaped limits", "raises its memory limit", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"),
    _refused("escaped limits", "writes a file of 100 MB", "with open('big', 'wb') as file:\n    file.seek(100 << 20)\n    file.write(b'x')"),
    _refused("escaped limits", "opens 1000 files", "files = [open('/dev/null') for _ in range(1000)]"),
    _refused("escaped limits", "memory outside its limit, by memfd", "import os\nos.memfd_create('m')"),
    _refused("escaped limits", "memory that stays, by shmget", "import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0"),
]

_SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
PROCESSES = [
    _refused("process tricks", "forks", "import os\nif os.fork() == 0: os._exit(0)"),
    _refused("process tricks", "a fork bomb", "import os\nwhile True: os.fork()"),
    _refused("process tricks", "vfork", _SYSCALL + "if libc.syscall(58) < 0: raise OSError"),
    _refused("process tricks", "clone3", _SYSCALL + "buf = ctypes.create_string_buffer(88)\nif libc.syscall(435, buf, 88) < 0: raise OSError"),
    _refused("process tricks", "fork by its x32 number", _SYSCALL + "if libc.syscall(0x40000000 + 57) < 0: raise OSError"),
    _refused("process tricks", "os.system", "import os\nif os.system('true') != 0: raise OSError"),
    _refused("process tricks", "subprocess", "import subprocess\nsubprocess.run(['/bin/true'], check=True)"),
    _refused("process tricks", "posix_spawn", "import os\nos.posix_spawn('/bin/true', ['true'], {})"),
    _refused("process tricks", "exec", "import os\nos.execv('/bin/true', ['true'])"),
    _refused("process tricks", "multiprocessing", "import multiprocessing\np = multiprocessing.get_context('fork').Process(target=print)\np.start()"),
    _refused("process tricks", "kills its parent", "import os\nos.kill(os.getppid(), 9)"),
    _refused("process tricks", "kills its grandparent's group", "import os\nos.killpg(os.getpgid(os.getppid()), 9)"),
    _refused("process tricks", "kills everything", "import os\nos.kill(-1, 9)"),
    _refused("process tricks", "kills itself", "import os\nos.kill(os.getpid(), 9)"),
    _refused("process tricks", "tgkill", _SYSCALL + "if libc.syscall(234, os.getppid(), os.getppid(), 9): raise OSError"),
    _refused("process tricks", "a signal through a pidfd", "import os, signal\nfd = os.pidfd_open(os.getppid())\nsignal.pidfd_send_signal(fd, 9)"),
    _refused("process tricks", "a signal through F_SETOWN", "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())"),
    _refused("process tricks", "a signal through FIOSETOWN", "import fcntl, os, socket, struct\na, b = socket.socketpair()\nfcntl.ioctl(a, 0x8901, struct.pack('i', os.getppid()))"),
    _refused("process tricks", "a signal through rt_sigqueueinfo", _SYSCALL + "if libc.syscall(129, os.getppid(), 9, ctypes.create_string_buffer(128)): raise OSError"),
    _refused("process tricks", "ptrace", _SYSCALL + "if libc.ptrace(16, os.getppid(), 0, 0): raise OSError"),
    _refused("process tricks", "reads its parent's memory", _SYSCALL + "if libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0): raise OSError"),
    _refused("process tricks", "outlives its parent", _SYSCALL + "if libc.prctl(1, 0): raise OSError"),
    _refused("process tricks", "opens itself to debuggers", _SYSCALL + "if libc.prctl(4, 1): raise OSError"),
    _refused("process tricks", "a new user namespace", _SYSCALL + "if libc.unshare(0x10000000): raise OSError"),
    _refused("process tricks", "becomes nobody", "import os\nos.setuid(65534)"),
    _refused("process tricks", "a new session", "import os\nos.setsid()"),
    _refused("process tricks", "io_uring", _SYSCALL + "if libc.syscall(425, 8, ctypes.create_string_buffer(120)) < 0: raise OSError"),
    _refused("process tricks", "raises its priority", "import os\nos.setpriority(os.PRIO_PROCESS, 0, -5)"),
    _refused("process tricks", "a call from the future", _SYSCALL + "if libc.syscall(470, 0, 0, 0) < 0: raise OSError"),
    _refused("process tricks", "sets the clock", "import time\ntime.clock_settime(time.CLOCK_REALTIME, time.time())"),
    Case("aborts", "process tricks", call("import os\nos.abort()"), "fail"),
    Case("reads address 0", "process tricks", call("import ctypes\nctypes.string_at(0)"), "fail"),
]

REACH = [
    _refused("file and network reach", "reads /etc/passwd", "open('/etc/passwd').read()"),
    _refused("file and network reach", "reads /etc/passwd below a link", "import os\nos.symlink('/etc/passwd', 'link')\nopen('link').read()"),
    _refused("file and network reach", "links /etc/passwd into its folder", "import os\nos.link('/etc/passwd', 'hard')\nopen('hard').read()"),
    _refused("file and network reach", "lists /", "import os\nos.listdir('/')"),
    _refused("file and network reach", "lists the folder for temporary files", "import os\nos.listdir('/tmp')"),
    _refused("file and network reach", "writes to /tmp", "open('/tmp/hostile-wrote-this', 'w').write('x')"),
    _refused("file and network reach", "writes to /dev/shm", "open('/dev/shm/hostile-wrote-this', 'w').write('x')"),
    _refused("file and network reach", "writes to the folder above", "open('../hostile-wrote-this', 'w').write('x')"),
    _refused("file and network reach", "reads its environment from /proc", "open('/proc/self/environ').read()"),
    _refused("file and network reach", "reads its parent's memory from /proc", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')"),
    _refused("file and network reach", "lists other processes", "import os\nos.listdir('/proc')"),
    _refused("file and network reach", "reads this project's data module", f"open({__file__!r}).read()"),
    _refused("file and network reach", "reads an installed package that is none of its business", "import numpy, pathlib\n(pathlib.Path(numpy.__file__).parents[1] / 'lm_eval' / '__init__.py').read_text()"),
    _refused("file and network reach", "changes the mode of a file", "import os\nopen('a', 'w').close()\nos.chmod('a', 0o777)"),
    _refused("file and network reach", "gives a file away", "import os\nopen('a', 'w').close()\nos.chown('a', 1, 1)"),
    _refused("file and network reach", "makes a device", "import os, stat\nos.mknod('null', 0o666 | stat.S_IFCHR, os.makedev(1, 3))"),
    _refused("file and network reach", "removes its folder", "import os\nos.rmdir(os.getcwd())"),
    _refused("file and network reach", "a TCP connection", "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=0.2)"),
    _refused("file and network reach", "a UDP socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
    _refused("file and network reach", "a Unix socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0hostile')"),
    _refused("file and network reach", "a name look-up", "import socket\nsocket.gethostbyname('example.org')"),
    _refused("file and network reach", "finds a secret in its environment", "import os\nassert any('TOKEN' in k or 'KEY' in k or 'HOME' in k and not v.startswith('/') for k, v in os.environ.items())"),
    _refused("file and network reach", "finds an open descriptor of ours", "import os\nfor fd in range(4, 256):\n    try: os.fstat(fd)\n    except OSError: continue\n    break\nelse: raise OSError"),
    _refused("file and network reach", "finds a file of an earlier guest", "import os\nassert os.listdir('.')\n"),
    Case("leaves files behind, nested and unreadable", "file and network reach", top("import os\nos.umask(0o777)\nos.mkdir('d')\nos.mkdir('e')\nfor i in range(500):\n    os.umask(0o77); os.mkdir('n'); os.chdir('n')\nopen('deep', 'w').close()\nos.umask(0o777)"), "pass"),
    Case("leaves links behind", "file and network reach", top("import os\nos.symlink('/', 'root')\nos.symlink('loop', 'loop')\nos.symlink('.', 'here')"), "pass"),
    Case("leaves many files behind", "file and network reach", top("for i in range(300): open(f'{i}', 'w').close()"), "pass"),
]

FLOODS = [
    Case("prints without end", "floods", call("while True: print('x' * 1000)"), "timeout"),
    Case("prints 50 MB", "floods", call("print('x' * 50_000_000)\nreturn x + 1"), "pass"),
    Case("writes 50 MB to descriptor 1", "floods", call("import os\nos.write(1, b'x' * 50_000_000)\nreturn x + 1"), "pass"),
    Case("warns a lot", "floods", call("import warnings\nwarnings.simplefilter('always')\nfor _ in range(1000): warnings.warn('x')\nreturn x + 1"), "pass"),
    Case("an exception of 50 MB", "floods", call("raise ValueError('x' * 50_000_000)"), "fail"),
    Case("an exception with a name of 1 MB", "floods", call("raise type('x' * 1_000_000, (Exception,), {})"), "fail"),
    Case("answers 50 MB", "floods", call("return 'x' * 50_000_000"), "fail"),
    Case("answers a list of 10 million", "floods", call("return [0] * 10_000_000"), "fail"),
    Case("answers an integer of 100 million bits", "floods", call("return 1 << 100_000_000"), "fail"),
    Case("answers a list that holds itself", "floods", call("a = []\na.append(a)\nreturn a"), "fail"),
    Case("fills its socket", "floods", call("import os\nwhile True: os.write(3, b'\\0\\0\\0\\x0a{\"r\":true}')"), "fail"),
    Case("500 threads", "floods", call("import threading, time\nfor _ in range(500):\n    try: threading.Thread(target=time.sleep, args=(9,)).start()\n    except RuntimeError: break\nreturn x + 1"), "pass"),
]
