"""One line an event, and no tracebacks of what is tried again."""

import logging

import pytest

from streams import logs

NAMES = ("aiokafka", "faust", "mode", "asyncio", "clickhouse_connect", "streams.consumer")


pytestmark = pytest.mark.usefixtures("logging_as_before")


def fail(message: str = "the broker\nis gone") -> None:
    raise OSError(message)


def logged(capsys: pytest.CaptureFixture[str], name: str, message: str, *values: object) -> list[str]:
    try:
        fail()
    except OSError:
        logging.getLogger(name).exception(message, *values)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize("name", ["aiokafka.client", "faust.app.base", "mode", "asyncio", "clickhouse_connect.driver"])
def test_an_outage_is_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    logs.configure("INFO")
    (line,) = logged(capsys, name, "no answer from %s at 100%%", "a:1")
    assert line.endswith(f"ERROR   {name}: no answer from a:1 at 100%: the broker")


@pytest.mark.parametrize("name", ["streams.stage", "inference.openai", "aiokafkaesque"])
def test_our_own_errors_keep_their_traceback(capsys: pytest.CaptureFixture[str], name: str) -> None:
    logs.configure("INFO")
    lines = logged(capsys, name, "a row failed")
    assert lines[0].endswith(f"{name}: a row failed")
    assert "OSError: the broker" in "\n".join(lines)


def test_an_error_without_words_is_still_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    try:
        fail("")
    except OSError:
        logging.getLogger("aiokafka").exception("")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_library_error_without_exception_stays(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logging.getLogger("aiokafka").error("lost %d of %s", 3, "many", exc_info=False)
    assert capsys.readouterr().err.endswith("ERROR   aiokafka: lost 3 of many\n")


def test_libraries_are_quieter_than_we_are(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("DEBUG")
    for name in (*NAMES, "streams.stage"):
        logging.getLogger(name).info("hello")
    assert [line.split()[-2] for line in capsys.readouterr().err.splitlines()] == ["streams.stage:"]


@pytest.mark.parametrize("name", ["clickhouse_connect", "urllib3.connectionpool"])
def test_retries_of_the_store_client_are_not_told(capsys: pytest.CaptureFixture[str], name: str) -> None:
    logs.configure("INFO")
    logging.getLogger(name).warning("retrying")
    assert capsys.readouterr().err == ""


def test_what_a_library_says_again_and_again_is_told_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    library = logging.getLogger("aiokafka.client")
    for number in range(50):
        library.error("no connection to %d", number)
    library.error("something else")
    at = library.makeRecord(library.name, logging.ERROR, "", 0, "no connection to %d", (99,), None)
    at.created += 60
    library.handle(at)
    told = [line.partition("client: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["no connection to 0", "something else", "no connection to 99"]


def test_what_we_say_is_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    for _ in range(3):
        logging.getLogger("streams.stage").warning("dead letter")
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_level_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("WARNING")
    logging.getLogger("streams.stage").info("hello")
    logging.getLogger("streams.stage").warning("beware")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_configured_twice_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logs.configure("INFO")
    logging.getLogger("streams.stage").info("hello")
    assert len(capsys.readouterr().err.splitlines()) == 1
