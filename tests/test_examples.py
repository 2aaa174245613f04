"""The examples, each run as a user runs it, against a real gearmand."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from twisted.internet.threads import deferToThread

from txgearman import GearmanClient, TaskException

from .daemons import Gearmand, free_port
from .processes import DEADLINE, EXAMPLES, ROOT, TRIAL, TWISTD, Running, example_worker, output, run, run_alone

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = pytest.mark.process

REAL_FILES = [str(ROOT / name) for name in ("README.md", "CHANGES", "LICENSE")]


@pytest.fixture
def served(gearmand: Gearmand) -> Iterator[str]:
    """The address of a gearmand that has the examples' worker."""
    with example_worker(gearmand.address):
        yield gearmand.address


# The small ones.


def test_worker_ends_quietly(gearmand: Gearmand) -> None:
    """Told to stop by a signal, it has no traceback to show."""
    with example_worker(gearmand.address) as worker:
        assert worker.terminate() == 0
        assert "Traceback" not in worker.said


def test_worker_waits_for_its_server_and_comes_back_to_it(gearmand: Gearmand) -> None:
    """A server that is restarted gets its worker back."""
    with example_worker(gearmand.address):
        for _ in range(2):
            gearmand.stop()
            gearmand.start()
            assert "b'desserts'" in output(run(EXAMPLES / "async_await.py", gearmand.address))


def test_async_await(served: str) -> None:
    assert output(run(EXAMPLES / "async_await.py", served)).splitlines() == [
        "b'desserts'",
        "b'the rose is red' {'the': 1, 'rose': 1, 'is': 1, 'red': 1}",
        "b'the violet is blue' {'the': 1, 'violet': 1, 'is': 1, 'blue': 1}",
        "b'the honey is sweet' {'the': 1, 'honey': 1, 'is': 1, 'sweet': 1}",
        "refused: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ]


def test_inline_callbacks(served: str) -> None:
    first, done, *statuses, counts = output(run(EXAMPLES / "inline_callbacks.py", served)).splitlines()
    assert first.startswith(f"in the background: {served}//H:")
    assert done == "done"
    assert [status.split(",")[0] for status in statuses] == [f"{n} of 1000 lines" for n in range(100, 1001, 100)]
    assert counts == "{'row': 3000, 'your': 1000, 'boat': 1000}"


def test_thumbnails_with_trial(tmp_path: Path) -> None:
    """No job server runs, and no time passes."""
    path = f"{ROOT}:{EXAMPLES}"
    temporary = f"--temp-directory={tmp_path / 'trial'}"
    result = run("-c", TRIAL, temporary, EXAMPLES / "test_thumbnails_trial.py", PYTHONPATH=path)
    assert "PASSED (successes=4)" in result.stdout, result.stdout + result.stderr


def test_thumbnails_with_pytest() -> None:
    """The same."""
    result = run_alone("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_thumbnails_pytest.py")
    assert "4 passed" in result.stdout, result.stdout + result.stderr


def test_tls_with_trial(tmp_path: Path) -> None:
    result = run("-c", TRIAL, f"--temp-directory={tmp_path / 'trial'}", EXAMPLES / "test_tls_trial.py")
    assert re.search(r"^PASSED \(successes=2\)$", output(result), re.MULTILINE)


@pytest.mark.process("gearmand")
def test_shop_with_trial(tmp_path: Path) -> None:
    """Each scenario on a clock, on a port and on gearmand."""
    path = f"{ROOT}:{EXAMPLES}"
    temporary = f"--temp-directory={tmp_path / 'trial'}"
    result = run("-c", TRIAL, temporary, EXAMPLES / "test_orders_trial.py", PYTHONPATH=path)
    assert "PASSED (successes=33)" in result.stdout, result.stdout + result.stderr


@pytest.mark.process("gearmand")
def test_shop_with_pytest() -> None:
    """The same."""
    result = run_alone("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_orders_pytest.py")
    assert "33 passed" in result.stdout, result.stdout + result.stderr


@pytest.mark.guarantee(number=11)
def test_with_trial(served: str, tmp_path: Path) -> None:
    """In a process of its own; trial fails the tests if the client leaves anything in the reactor."""
    script = EXAMPLES / "test_with_trial.py"
    result = run("-c", TRIAL, f"--temp-directory={tmp_path / 'trial'}", script, GEARMAN_SERVER=served)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Ran 3 tests" in result.stdout
    assert "PASSED (successes=3)" in result.stdout


# The service.


@contextmanager
def reverser(server: str, cwd: Path) -> Iterator[tuple[Running, socket.socket]]:
    """examples/service.tac under twistd, and a connection to it."""
    arguments = ("-c", TWISTD, "--pidfile=", "-noy", EXAMPLES / "service.tac")
    with Running(*arguments, cwd=cwd, GEARMAN_SERVER=server, LISTEN="tcp:0:interface=127.0.0.1") as twistd:
        port = int(twistd.await_line(r"ReverserFactory starting on (\d+)")[1])
        twistd.await_line(f"connected to {server}")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
            yield twistd, connection


def test_service(served: str, tmp_path: Path) -> None:
    """Lines are answered in order, and twistd ends by the signal that it got, after a clean stop."""
    with reverser(served, tmp_path) as (twistd, connection):
        connection.sendall(b"abc\r\n\r\n\xff\0d\r\n")
        with connection.makefile("rb") as answers:
            assert [answers.readline() for _ in range(3)] == [b"cba\r\n", b"\r\n", b"d\0\xff\r\n"]
        # twistd stops the services, and then does to itself what the signal would have done.
        assert twistd.terminate() == -signal.SIGTERM
        assert "Server Shut Down" in twistd.said
        assert "Traceback" not in twistd.said
        assert "Unhandled" not in twistd.said


def test_service_tells_of_trouble_and_goes_on(gearmand: Gearmand, tmp_path: Path) -> None:
    """The errback's answer, once while the server is gone; then the server is back."""
    with reverser(gearmand.address, tmp_path) as (twistd, connection), connection.makefile("rb") as answers:
        gearmand.stop()
        connection.sendall(b"abc\r\n")
        assert answers.readline().startswith(b"ERROR ")
        gearmand.start()
        twistd.await_line(f"connected to {gearmand.address}")
        with example_worker(gearmand.address):
            connection.sendall(b"abc\r\n")
            assert answers.readline() == b"cba\r\n"


def test_worker_and_client_as_services(gearmand: Gearmand, tmp_path: Path) -> None:
    """One application has both; what runs when it is stopped is done first."""
    arguments = ("-c", TWISTD, "--pidfile=", "-noy", EXAMPLES / "worker_service.tac")
    with Running(*arguments, cwd=tmp_path, GEARMAN_SERVER=gearmand.address) as twistd:
        twistd.await_line("1 squared is 1")
        twistd.await_line("2 squared is 4")
        assert any(line.endswith(" tac : square") for line in gearmand.admin("workers"))
        assert twistd.terminate() == -signal.SIGTERM
        assert "Server Shut Down" in twistd.said
        assert "Traceback" not in twistd.said
    assert gearmand.admin("status") == ["square\t0\t0\t0", "."]


# The worker of a web application.


class Application(ThreadingHTTPServer):
    """A web application that capitalizes what is posted, refuses an empty post, and waits before it answers b"wait"."""

    def __init__(self) -> None:
        self.waiting, self.go_on = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Capitalizer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Capitalizer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the worker keeps its connections

    def do_POST(self) -> None:
        assert isinstance(self.server, Application)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"wait":
            self.server.waiting.set()
            self.server.go_on.wait(DEADLINE)
        self.send_response(200 if body else 422)
        answer = body.upper() or b"nothing to do"
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


async def test_worker_posts_jobs_to_web_application(gearmand: Gearmand, tmp_path: Path) -> None:
    """A refusal is an exception; at SIGTERM a request that runs gets its answer first."""
    arguments = ("-c", TWISTD, "--pidfile=", "-noy", EXAMPLES / "poster.tac")
    with Application() as web:
        async with GearmanClient([gearmand.address], timeout=DEADLINE) as client:
            with Running(*arguments, cwd=tmp_path, GEARMAN_SERVER=gearmand.address, WEB_APPLICATION=web.url) as twistd:
                large = b"a" * 100_000
                assert await client.add_tasks("post", [b"abc", large]) == [b"ABC", large.upper()]
                with pytest.raises(TaskException) as refused:
                    await client.add_task("post", b"")
                assert refused.value.data == b"RequestRefused: 422 nothing to do"
                last = client.add_task("post", b"wait")
                await deferToThread(web.waiting.wait, DEADLINE)
                await deferToThread(twistd.begin_end)
                web.go_on.set()
                assert await last == b"WAIT"
                assert await deferToThread(twistd.end) == -signal.SIGTERM
                assert twistd.said.count("Traceback") == 1  # the refusal's


# The web application.

THREADS = 16
POSTS = 5


def test_web_application_answers_threads_with_what_is_theirs(gearmand: Gearmand) -> None:
    """35 kB in each request: more than a socket takes at once."""
    bodies = [[os.urandom(35_000) for _ in range(POSTS)] for _ in range(THREADS)]

    def post(url: str, bodies: list[bytes]) -> list[bool]:
        return [urlopen(url, body, DEADLINE).read() == body[::-1] for body in bodies]

    arguments = (EXAMPLES / "wsgi.py", "--port", "0")
    with Running(*arguments, GEARMAN_SERVER=gearmand.address) as web, ThreadPoolExecutor(THREADS) as pool:
        port = web.await_line(r"listening on (\d+)")[1]
        url = f"http://127.0.0.1:{port}/"
        with example_worker(gearmand.address):
            answers = list(pool.map(partial(post, url), bodies))
        assert answers == [[True] * POSTS] * THREADS
        gearmand.stop()
        with pytest.raises(HTTPError, match="503") as refused:
            urlopen(url, b"abc", DEADLINE)
        assert re.fullmatch(rb".* \(.*\)\n", refused.value.read())
        assert (web.terminate(), web.said.splitlines()[1:]) == (0, [])


# The word count.


def wordcount(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(EXAMPLES / "wordcount.py", *arguments, **variables)


def plain_count(*paths: str | Path) -> Counter[str]:
    """The same without Gearman, from one end of the files to the other."""
    text = "\n".join(Path(path).read_text("utf-8") for path in paths)
    return Counter(re.findall(r"\w+(?:['\u2019]\w+)*", text.casefold()))


def read_table(text: str) -> tuple[list[tuple[str, int]], tuple[int, int]]:
    """The rows of a table, and its totals: words, and different ones."""
    *rows, last = text.splitlines()
    totals = re.fullmatch(r" *([\d,]+)  words in all, ([\d,]+) different ones", last)
    assert totals, text
    pairs = [row.split() for row in rows]
    return [(word, number(count)) for count, word in pairs], (number(totals[1]), number(totals[2]))


def number(text: str) -> int:
    return int(text.replace(",", ""))


def assert_counted(result: subprocess.CompletedProcess[str], expected: Counter[str], top: int = 20) -> None:
    """The table is right, in its order too."""
    assert result.returncode == 0, result.stderr
    rows, totals = read_table(result.stdout)
    assert rows == sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:top]
    assert totals == (sum(expected.values()), len(expected))


def test_wordcount_of_real_files() -> None:
    """With a job server of its own."""
    assert_counted(wordcount(*REAL_FILES), plain_count(*REAL_FILES))


def test_wordcount_shows_every_word_if_asked() -> None:
    expected = plain_count(*REAL_FILES)
    assert_counted(wordcount(*REAL_FILES, "--top", "1000000"), expected, len(expected))


def test_wordcount_in_many_pieces(tmp_path: Path) -> None:
    """Far more jobs than are out at a time; what is told on stderr goes from less to all of it."""
    book = tmp_path / "book"
    book.write_text("\n".join(f"{n} words and word {n % 7}" for n in range(100_000)) + "\n")
    size = book.stat().st_size
    result = wordcount(book)
    assert_counted(result, plain_count(book))
    told = [number(part) for part in re.findall(rf"counted ([\d,]+) of {size:,} bytes", result.stderr)]
    assert told == sorted(told)
    assert told[-1] == size
    assert len(told) > 1.5 * size / 65536, "more than one for each job"


def test_wordcount_knows_more_than_english(tmp_path: Path) -> None:
    """Case, composed and decomposed letters, both apostrophes, other scripts; no end of line at the end."""
    text = tmp_path / "text"
    text.write_text(
        "Straße STRASSE; don't DON'T don\u2019t\nna\u00efve nai\u0308ve - Ελλάδα ΕΛΛΆΔΑ\n日本語 日本語", "utf-8"
    )
    counts = {"strasse": 2, "don't": 2, "don\u2019t": 1, "na\u00efve": 2, "ελλάδα": 2, "日本語": 2}
    assert_counted(wordcount(text), Counter(counts))


def test_wordcount_of_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert_counted(wordcount(empty), Counter())


def test_wordcount_with_the_server_and_its_workers(served: str) -> None:
    assert_counted(wordcount(*REAL_FILES, "--server", served, "--no-worker"), plain_count(*REAL_FILES))


def test_wordcount_brings_a_worker(gearmand: Gearmand) -> None:
    """A server without any worker is no reason to wait for ever."""
    assert_counted(wordcount(*REAL_FILES, "--server", gearmand.address), plain_count(*REAL_FILES))


def not_text(folder: Path) -> Path:
    path = folder / "binary"
    path.write_bytes(b"abc\xff")
    return path


@pytest.mark.parametrize(
    ("make_arguments", "complaint"),
    [
        (lambda folder: [folder / "missing"], r"No such file or directory: '.*missing'"),
        (lambda folder: [folder], r"Is a directory: '.*'"),
        (
            lambda folder: [REAL_FILES[0], not_text(folder)],
            r"binary: 'utf-8' codec can't decode byte 0xff in position 3",
        ),
        (lambda folder: [REAL_FILES[0], "--server", f"127.0.0.1:{free_port()}"], r"127\.0\.0\.1:\d+: .*refused"),
        (
            lambda folder: [REAL_FILES[0], "--server", "here:there"],
            r"an address must be .*, not 'here:there'",
        ),
        (lambda folder: [REAL_FILES[0], "--no-worker"], r"--no-worker needs a --server"),
        (lambda folder: [REAL_FILES[0], "--top", "-1"], r"--top must not be negative"),
        (lambda folder: [], r"FILE"),
    ],
    ids=["missing", "directory", "not text", "no server", "no address", "nobody to do it", "no number", "no file"],
)
def test_wordcount_says_what_is_wrong(
    make_arguments: Callable[[Path], list[str | Path]], complaint: str, tmp_path: Path
) -> None:
    """In a line at the end, with an exit code, without a table and without a traceback."""
    assert_refused(wordcount(*make_arguments(tmp_path)), complaint)


def assert_refused(result: subprocess.CompletedProcess[str], complaint: str) -> None:
    assert result.returncode in (1, 2)
    assert result.stdout == ""
    assert re.search(complaint, result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr
    assert "Unhandled" not in result.stderr


def test_wordcount_needs_no_job_server(tmp_path: Path) -> None:
    """No program but Python's own is to be found, and it counts."""
    assert_counted(wordcount(*REAL_FILES, PATH=str(tmp_path)), plain_count(*REAL_FILES))


def test_wordcount_ends_when_it_is_stopped(tmp_path: Path) -> None:
    """A signal in the middle of the work: no table of the half of it."""
    book = tmp_path / "book"
    book.write_text("a word\n" * 3_000_000)
    with Running(EXAMPLES / "wordcount.py", book) as running:
        running.await_line("counted")
        assert running.terminate() == 1
        assert running.said.endswith("wordcount: stopped\n")
