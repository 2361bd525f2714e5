"""Settings come from the environment or a file; whatever is wrong is told at once, and secrets never."""

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from streams.errors import WorkerMisconfigured
from streams.settings import Settings, document, load

ALL = ("kafka", "engine", "clickhouse")
SECRETS = ("WEIR_KAFKA_PASSWORD", "WEIR_ENGINE_API_KEY", "WEIR_CLICKHOUSE_PASSWORD", "WEIR_OPENLINEAGE_API_KEY")

Set = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Set:
    """`environment(KAFKA_URL="…")`: sets variables, without their prefix."""

    def give(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"WEIR_{name}", value)

    return give


@pytest.fixture
def file(environment: Set, tmp_path: Path) -> Callable[[str], Path]:
    """A TOML file that WEIR_SETTINGS names."""

    def write(content: str) -> Path:
        path = tmp_path / "weir.toml"
        path.write_text(content)
        environment(SETTINGS=str(path))
        return path

    return write


def told(*needs: str) -> list[str]:
    with pytest.raises(WorkerMisconfigured) as caught:
        load(needs)  # type: ignore[arg-type]
    title, *lines = str(caught.value).splitlines()
    assert title == "settings:"
    return [line.removeprefix("  ") for line in lines]


def test_nothing_is_needed_until_it_is_used() -> None:
    assert load(()).kafka_url == ""
    assert [line.split(":")[0] for line in told(*ALL)] == [f"WEIR_{server.upper()}_URL" for server in ALL]


def test_the_environment(environment: Set) -> None:
    environment(KAFKA_URL="kafka://a:1,b:2", KAFKA_TLS="true", ROWS_IN_FLIGHT="7", PRICE_INPUT_USD="0.5")
    settings = load(["kafka"])
    assert (settings.kafka_url, settings.kafka_tls, settings.rows_in_flight) == ("kafka://a:1,b:2", True, 7)
    assert settings.prices.input_usd == 0.5


def test_a_file(file: Callable[[str], Path]) -> None:
    file('kafka_url = "kafka://a:1"\nrows_in_flight = 7\nkafka_tls = true\ndrain_seconds = 2.5\n')
    settings = load(["kafka"])
    assert (settings.kafka_url, settings.rows_in_flight, settings.drain_seconds) == ("kafka://a:1", 7, 2.5)


def test_the_environment_wins_over_the_file(environment: Set, file: Callable[[str], Path]) -> None:
    file('kafka_group = "file"\nrows_in_flight = 7\n')
    environment(KAFKA_GROUP="environment")
    settings = load(())
    assert (settings.kafka_group, settings.rows_in_flight) == ("environment", 7)


def test_an_empty_variable_empties_what_the_file_gives(environment: Set, file: Callable[[str], Path]) -> None:
    file('kafka_url = "kafka://a:1"\n')
    environment(KAFKA_URL="")
    assert [line.split(":")[0] for line in told("kafka")] == ["WEIR_KAFKA_URL"]


def test_all_mistakes_are_told_at_once(environment: Set, file: Callable[[str], Path]) -> None:
    file("colour = 1\nweb_port = 70000\n")
    environment(ROWS_IN_FLIGHT="0", LOG_LEVEL="LOUD", KAFKA_URL="nowhere", KAFKA_GRUP="x")
    lines = told("kafka", "clickhouse")
    assert {line.split(":")[0] for line in lines} == {
        "WEIR_COLOUR",
        "WEIR_WEB_PORT",
        "WEIR_ROWS_IN_FLIGHT",
        "WEIR_LOG_LEVEL",
        "WEIR_KAFKA_URL",
        "WEIR_KAFKA_GRUP",
        "WEIR_CLICKHOUSE_URL",
    }
    assert len(lines) == 7
    assert "'DEBUG', 'INFO', 'WARNING' or 'ERROR'" in next(line for line in lines if "LOG_LEVEL" in line)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("KAFKA_ULR", "WEIR_KAFKA_ULR: no such setting; did you mean WEIR_KAFKA_URL?"),
        ("SETING", "WEIR_SETING: no such setting; did you mean WEIR_SETTINGS?"),
        ("XYZ", "WEIR_XYZ: no such setting"),
    ],
)
def test_an_unknown_variable_is_a_mistake(environment: Set, name: str, line: str) -> None:
    environment(**{name: "hunter2"})
    assert told() == [line]


def test_variables_of_tests_and_of_others_are_none_of_ours(environment: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(TEST_CLICKHOUSE_URL="http://a:1")
    monkeypatch.setenv("WEIRD", "1")
    load(())


def test_an_unknown_field_of_the_file(file: Callable[[str], Path]) -> None:
    file("kafka_ulr = 1\n[kafka]\nurl = 2\n")
    assert told() == [
        f"WEIR_{name}: no such setting in the file that WEIR_SETTINGS names" for name in ("KAFKA_ULR", "KAFKA")
    ]


@pytest.mark.parametrize("content", ["kafka_url = ", "\ufeffkafka_url", "=", '"\ud800"'])
def test_a_file_that_is_no_toml(environment: Set, tmp_path: Path, content: str) -> None:
    path = tmp_path / "weir.toml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    environment(SETTINGS=str(path))
    with pytest.raises(WorkerMisconfigured, match=f"WEIR_SETTINGS: {path} cannot be used: "):
        load(())


def test_a_file_that_is_not_there(environment: Set, tmp_path: Path) -> None:
    environment(SETTINGS=str(tmp_path / "none.toml"))
    with pytest.raises(WorkerMisconfigured, match=r"WEIR_SETTINGS: .*none\.toml cannot be used: "):
        load(())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_URL", "kafka://a:1,b:2"),
        ("KAFKA_URL", "kafka://[::1]:9092"),
        ("KAFKA_URL", "kafka://a"),
        ("ENGINE_URL", "https://engine.example/v1"),
        ("CLICKHOUSE_URL", "http://127.0.0.1:8123"),
        ("OPENLINEAGE_URL", "https://catalogue:5000/openapi/openlineage/"),
        ("OPENLINEAGE_URL", "file:///var/log/events.jsonl"),
    ],
)
def test_addresses(environment: Set, name: str, value: str) -> None:
    environment(**{name: value})
    assert getattr(load(()), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_URL", "a:1"),
        ("KAFKA_URL", "http://a:1"),
        ("KAFKA_URL", "kafka://"),
        ("KAFKA_URL", "kafka://a:1,"),
        ("KAFKA_URL", "kafka://a:1,b:x"),
        ("KAFKA_URL", "kafka://a:1,kafka://b:1"),
        ("KAFKA_URL", "kafka://a:70000"),
        ("KAFKA_URL", "kafka://a:1/"),
        ("ENGINE_URL", "kafka://a:1"),
        ("ENGINE_URL", "http://"),
        ("CLICKHOUSE_URL", "clickhouse://a:1"),
        ("CLICKHOUSE_URL", "http://a:x"),
        ("OPENLINEAGE_URL", "kafka://a:1"),
        ("OPENLINEAGE_URL", "http://a:x"),
        ("OPENLINEAGE_URL", "http://a:1/?key=1"),
        ("OPENLINEAGE_URL", "file://host/events.jsonl"),
        ("OPENLINEAGE_URL", "file:///"),
    ],
)
def test_what_is_no_address(environment: Set, name: str, value: str) -> None:
    environment(**{name: value})
    (line,) = told()
    assert line.startswith(f"WEIR_{name}: must look like ")


@pytest.mark.parametrize(
    "credentials",
    ["user:hunter2@", "user@", ":hunter2@", "user:hunt/er2@", "user:hunt#er2@", "user:hunt?er2@", "user:12/hunter2@"],
)
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("KAFKA_URL", "kafka://{}a:1"),
        ("KAFKA_URL", "kafka://b:1,{}a:1"),
        ("ENGINE_URL", "http://{}a:1"),
        ("CLICKHOUSE_URL", "https://{}a:1"),
        ("OPENLINEAGE_URL", "https://{}a:1"),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(
    environment: Set, name: str, url: str, credentials: str
) -> None:
    environment(**{name: url.format(credentials)})
    (line,) = told()
    assert line == f"WEIR_{name}: a URL must not hold a user or a password; use the settings made for them"


def test_secrets_are_never_shown(environment: Set) -> None:
    environment(**{name.removeprefix("WEIR_"): "hunter2" for name in SECRETS})
    settings = load(())
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.engine.api_key == settings.store.password == settings.kafka_password.get_secret_value() == "hunter2"


def test_secrets_are_in_no_message(environment: Set, file: Callable[[str], Path]) -> None:
    file('kafka_password = ["hunter2"]\nclickhouse_password = 5\nengine_api_key = {hunter2 = 1}\n')
    environment(KAFKA_SASL_MECHANISM="PLAIN", ROWS_IN_FLIGHT="hunter2", KAFKA_URL="kafka://hunter2:x")
    with pytest.raises(WorkerMisconfigured) as caught:
        load(())
    assert len(str(caught.value).splitlines()) == 6
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("given", [{}, {"KAFKA_USER": "ann"}, {"KAFKA_PASSWORD": "hunter2"}])
def test_sasl_needs_a_user_and_a_password(environment: Set, given: dict[str, str]) -> None:
    environment(KAFKA_SASL_MECHANISM="SCRAM-SHA-512", **given)
    assert told() == ["WEIR_KAFKA_SASL_MECHANISM needs WEIR_KAFKA_USER and WEIR_KAFKA_PASSWORD"]
    environment(KAFKA_USER="ann", KAFKA_PASSWORD="hunter2")
    load(())


@pytest.mark.parametrize("name", ["KAFKA_CA_FILE", "CLICKHOUSE_CA_FILE"])
def test_tls_files_must_exist(environment: Set, tmp_path: Path, name: str) -> None:
    path = tmp_path / "ca.pem"
    environment(**{name: str(path)})
    assert told() == [f"WEIR_{name}: there is no file {path}"]
    path.mkdir()
    assert told() == [f"WEIR_{name}: there is no file {path}"]
    path.rmdir()
    path.touch()
    load(())


def test_a_certificate_and_its_key_go_together(environment: Set, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    environment(KAFKA_CERT_FILE=str(tmp_path / "cert.pem"))
    assert told() == ["WEIR_KAFKA_CERT_FILE and WEIR_KAFKA_KEY_FILE go together"]
    environment(KAFKA_KEY_FILE=str(tmp_path / "key.pem"))
    assert told() == [f"WEIR_KAFKA_KEY_FILE: there is no file {tmp_path / 'key.pem'}"]
    (tmp_path / "key.pem").touch()
    load(())


def test_what_does_not_go_together_is_told_at_once(environment: Set) -> None:
    environment(KAFKA_SASL_MECHANISM="PLAIN", KAFKA_CERT_FILE="no.pem", KAFKA_CA_FILE="none.pem")
    assert len(told()) == 4


@pytest.mark.parametrize("name", ["1weir", "we-ir", "weir; DROP", "", "weir\n"])
def test_what_is_no_name_of_a_database(environment: Set, name: str) -> None:
    environment(CLICKHOUSE_DATABASE=name)
    assert told()[0].startswith("WEIR_CLICKHOUSE_DATABASE: ")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().web_port = 5  # type: ignore[misc]


def test_the_parts_are_those_of_the_settings() -> None:
    settings = Settings(
        engine_url="http://e:1",
        engine_model="m",
        engine_dialect="vllm",
        engine_prompts_in_flight=3,
        engine_prompts_per_request=5,
        engine_timeout_seconds=7,
        engine_context_tokens=11,
        price_input_usd=1,
        price_cached_usd=2,
        price_output_usd=3,
        clickhouse_url="http://c:1",
        clickhouse_user="ann",
        clickhouse_database="d",
        clickhouse_ca_file=__file__,
    )
    engine, prices, store = settings.engine, settings.prices, settings.store
    assert (engine.url, engine.model, engine.dialect, engine.prompts_in_flight) == ("http://e:1", "m", "vllm", 3)
    assert (engine.prompts_per_request, engine.timeout, engine.context_tokens) == (5, 7, 11)
    assert (prices.input_usd, prices.cached_usd, prices.output_usd) == (1, 2, 3)
    assert (store.url, store.user, store.database, store.ca_file) == ("http://c:1", "ann", "d", __file__)


def test_the_page_lists_every_setting_once() -> None:
    lines = [line for line in document().splitlines() if line.startswith("| `")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == [f"WEIR_{name.upper()}" for name in Settings.model_fields]
    assert all(row[2] for row in rows)
    assert {row[0] for row in rows if row[1] == "required"} == {f"WEIR_{server.upper()}_URL" for server in ALL}
    assert next(row[1] for row in rows if row[0] == "WEIR_WEB_PORT") == "8080"


def test_the_page_in_the_repository_is_the_generated_one(root: Path) -> None:
    page = root / "docs" / "settings.md"
    if not page.exists():
        pytest.skip("not generated yet: make docs")
    assert page.read_text(encoding="utf-8") == document()
