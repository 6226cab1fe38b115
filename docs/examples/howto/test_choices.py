from pathlib import Path
from types import SimpleNamespace

import pytest
from plugins.in_order import InOrder
from plugins.lines import Lines
from plugins.maintenance import Maintenance
from plugins.slow_log import SlowLog
from twisted.internet.task import Clock

from meshproxy.errors import CheckFailed


def test_the_first_that_is_well() -> None:
    assert InOrder().balance(("a", "b")).pick() == "a"


def test_lines_are_read_again(tmp_path: Path) -> None:
    told: list[list[str]] = []
    reasons: list[str] = []
    clock = Clock()
    lines = Lines(Lines.Options(path="list", interval="1s"))
    lines.attach(SimpleNamespace(path=tmp_path.joinpath, reactor=clock))
    lines.start(told.append, reasons.append)
    assert len(reasons) == 1  # there is no such file
    (tmp_path / "list").write_text("127.0.0.1:1\n127.0.0.1:2\n")
    clock.pump([1, 1])
    assert told == [["127.0.0.1:1", "127.0.0.1:2"]]
    lines.stop()
    assert clock.getDelayedCalls() == []


def test_a_file_takes_an_endpoint_out(tmp_path: Path) -> None:
    maintenance = Maintenance(Maintenance.Options())
    maintenance.attach(SimpleNamespace(path=lambda text: f"{tmp_path}/{text}"))
    endpoint = SimpleNamespace(spec=SimpleNamespace(sockaddr=("127.0.0.1", 9001)))
    with pytest.raises(StopIteration):  # a coroutine that returned
        maintenance.check(endpoint).send(None)
    (tmp_path / "down-9001").touch()
    with pytest.raises(CheckFailed):
        maintenance.check(endpoint).send(None)


def test_what_took_long_is_written(tmp_path: Path) -> None:
    counted: list[int] = []
    log = SlowLog(SlowLog.Options(path="log", over="1s"))
    counter = SimpleNamespace(inc=lambda: counted.append(1))
    log.attach(SimpleNamespace(path=tmp_path.joinpath, counter=lambda *_: counter))
    log.start()
    for end in (0.5, 1.5):
        record = SimpleNamespace(start=0.0, end=end, method=b"GET", path=b"/", status=200)
        log.log(record)
    log.stop()
    assert (tmp_path / "log").read_text() == "200 'GET /'\n"
    assert counted == [1]
