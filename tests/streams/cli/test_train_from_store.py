"""`weir train-screen --pipeline`, from verdicts and reviews in a real store to the lines of the pipeline file."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from ruamel.yaml import YAML

from deploy.embedded.process import free_port
from inference.screen.model import load
from sinks.clickhouse import StoreSettings, connect
from sinks.rows import TABLES, AnyRow, ReviewRow, SourceRow, VerdictRow
from streams import pipeline
from streams.cli import main
from tests.inference.screen.conftest import BAD, sentences

pytestmark = pytest.mark.usefixtures("logging_as_before")

NOW = datetime.now(UTC).replace(microsecond=0)
CASCADE = {"screen": "community-1", "sha256": "0" * 64}

Weir = Callable[..., tuple[int, str, str]]
_names = (f"watch-{number}" for number in count())
_numbers = count(1)


@pytest.fixture
def weir(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: StoreSettings) -> Weir:
    """`weir("--pipeline", file)`: exit status, standard output, standard error of `weir train-screen`."""
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", store.url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_DATABASE", store.database)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weir", "train-screen", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


class Watch:
    """A pipeline file of one stage, and what the store has of it."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.name = next(_names)
        self.file = folder / f"{self.name}.yaml"
        self._client = client
        self.write()

    def write(self, **stage: Any) -> None:
        judge = {"operator": "moderate", "categories": [{"name": "insult", "definition": "insults"}]}
        head = {"name": self.name, "version": "1", "source": "in", "sla": "10s"}
        stages = [{"name": "judge", "writes": "out", "judge": judge} | stage]
        YAML().dump(head | {"stages": stages}, self.file)

    def judged(self, texts: Iterable[str], decision: str, days: float = 0, **columns: Any) -> list[VerdictRow]:
        """Verdicts of texts, some days ago."""
        at = NOW - timedelta(days=days)
        rows: list[AnyRow] = []
        verdicts = []
        for text in texts:
            source = (int(at.timestamp() * 1000) << 80) + next(_numbers) * 10
            made = VerdictRow(
                **{
                    "row_id": source + 1,
                    "source_row_id": source,
                    "pipeline": self.name,
                    "pipeline_version": "1",
                    "stage": "judge",
                    "operator": "moderate",
                    "tenant": "",
                    "lang": "en",
                    "event_time": at,
                    "broker_time": at,
                    "judged_at": at,
                    "topic": "in",
                    "partition": 0,
                    "offset": 1,
                    "decision": decision,
                    "label": "ok" if decision == "allow" else "insult",
                    "scores": [0.5, 0.5],
                    "confidence": 0.5,
                    "model": "m-1",
                    "prompt_hash": "a1",
                    "parts": 1,
                    "input_tokens": 1,
                    "cached_tokens": 0,
                    "output_tokens": 1,
                    "cost_usd": 0.0,
                    "latency_ms": 1,
                    "engine_seconds": 0.0,
                    "confidence_source": "logprobs",
                }
                | columns
            )
            rows.append(SourceRow(source, at, at, "", "", "in", 0, 1, "", "", "", "en", text, at, ""))
            verdicts.append(made)
        self._put(rows)
        self._put(verdicts)
        return verdicts

    def reviewed(self, verdicts: Sequence[VerdictRow], decision: str) -> None:
        """A person's word on each of them."""
        self._put(
            [
                ReviewRow(
                    **{name: getattr(row, name) for name in set(ReviewRow._fields) & set(VerdictRow._fields)}
                    | {"decision": decision, "label": "ok" if decision == "allow" else "insult"},
                    review_id=row.row_id + 5,
                    reviewed_at=NOW,
                    reviewer="ann",
                    model_decision=row.decision,
                    model_label=row.label,
                    was_decision=row.decision,
                    was_label=row.label,
                    was_by="model",
                    comment="",
                    source="",
                    event_id="",
                    written_at=NOW,
                )
                for row in verdicts
            ]
        )

    def _put(self, rows: Sequence[AnyRow]) -> None:
        self._client.insert(TABLES[type(rows[0])], rows, column_names=list(type(rows[0])._fields))


@pytest.fixture
def watch(tmp_path: Path, store: StoreSettings) -> Iterator[Watch]:
    with closing(connect(store)) as client:
        yield Watch(tmp_path, client)


def texts(*bad: str, rows: int = 900, seed: int = 1) -> list[str]:
    """Texts with one of these words, or for none of them those that are fine."""
    return [each.text for each in sentences(rows, seed) if each.label in (bad or ("ok",))]


def pasted(told: str) -> dict[str, Any]:
    """What a file with the printed lines says."""
    found: dict[str, Any] = YAML(typ="safe").load(told[told.index("\ncascade:") :])["cascade"]
    return found


def test_people_have_the_last_word_and_the_next_screen_is_compared(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(), "allow")
    watch.judged(texts("grumpkin"), "block")
    missed = watch.judged(texts("wretchface", "blockhead"), "allow")
    watch.reviewed(missed, "block")
    watch.reviewed(watch.judged(["the weather is fine"], "allow"), "allow")
    first = tmp_path / "first.safetensors"
    status, told, err = weir("--pipeline", watch.file, "--out", first)
    assert status == 0, err
    fine, bad = len(texts()), len(texts("grumpkin"))
    assert (
        f"Learned from {fine + bad + len(missed) + 1} texts of {watch.name}/judge: {fine + bad} rows judged by the "
        f"model, {len(missed) + 1} reviewed by people, who overturned {len(missed)}."
    ) in told
    cascade = pasted(told)
    screen = load(Path(cascade["screen"]), cascade["sha256"])
    assert (screen.card.version, screen.card.trained_on) == ("1", (f"{watch.name}/judge",))
    assert screen.risks(["you blockhead"])[0] > 0.5 > screen.risks(["thanks for the apples"])[0]
    watch.write(cascade=cascade | {"target": 0.9})
    assert pipeline.load(watch.file).stages[0].cascade is not None

    same = tmp_path / "same.safetensors"
    status, told, err = weir("--pipeline", watch.file, "--out", same)
    assert status == 0, err
    assert "The new screen is not shown to be better than the old one" in told
    assert "cascade:" not in told

    watch.judged(texts("snotling", rows=3000, seed=2), "block")
    watch.judged(texts(rows=600, seed=3), "allow")
    second = tmp_path / "second.safetensors"
    status, told, err = weir("--pipeline", watch.file, "--out", second)
    assert status == 0, err
    assert "The new screen is better than the old one: AUROC +0." in told
    assert pasted(told) == {"screen": str(second), "sha256": load(second).sha256, "target": 0.9}
    assert load(second).card.version == "2"


def test_what_was_judged_stands_for_what_the_screen_decided(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    fine = texts()
    screened = {"screen": "s-1", "confidence_source": "screen", "tier": "screen", "risk": 0.105}
    looked = {"screen": "s-1", "audited": True, "risk": 0.107}
    watch.judged(fine[:320], "allow", **screened)
    audited = watch.judged(fine[320:400], "allow", **looked)
    watch.judged(fine[400:], "allow", screen="s-1", risk=0.5)
    watch.judged(texts(*BAD), "block", screen="s-1", risk=0.6)
    reported = watch.judged([f"you {word} there" for word in BAD], "allow", **screened)
    watch.reviewed(reported, "block")
    watch.judged(["somebody waits"], "review", confidence_source="prior", screen="s-1", risk=0.1)
    out = tmp_path / "new.safetensors"
    status, told, err = weir("--pipeline", watch.file, "--out", out, "--json", "--categories", "insult")
    assert status == 0, err
    report = json.loads(told)
    by_model = len(fine) - 320 + len(texts(*BAD))
    assert report["learned_from"] == {"texts": by_model + 4, "by_model": by_model, "by_people": 4, "overturned": 4}
    assert report["largest_weight"] == pytest.approx((320 + 4 + len(audited)) / len(audited), abs=0.01)
    assert load(out).card.categories == ("insult",)


def test_a_text_counts_once_and_a_person_is_heard_for_all_its_copies(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(), "allow")
    watch.judged(texts(*BAD), "block")
    copies = watch.judged(["buy my grumpkin cream"] * 50, "allow")
    watch.reviewed(copies[:1], "block")
    watch.judged(["judged both ways"], "allow")
    watch.judged(["judged both ways"], "review")
    status, told, err = weir("--pipeline", watch.file, "--out", tmp_path / "x.safetensors", "--json")
    assert status == 0, err
    report = json.loads(told)
    assert report["learned_from"]["texts"] == len(texts()) + len(texts(*BAD)) + 2
    assert report["labelled_both_ways"] == 1
    assert report["largest_weight"] == 1


def test_a_file_can_be_learned_from_as_well(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(), "allow")
    insults = texts("grumpkin", rows=3000)
    watch.judged(insults, "block")
    given = [{"text": text, "label": 0} for text in texts(seed=7)]
    given += [{"text": text, "label": 1} for text in texts("snotling", seed=7)]
    data, out = tmp_path / "rows.jsonl", tmp_path / "x.safetensors"
    data.write_text("".join(json.dumps(row) + "\n" for row in given))
    status, told, err = weir("--pipeline", watch.file, "--data", data, "--out", out)
    assert status == 0, err
    assert f"Learned as well from {len(given)} rows of rows.jsonl" in told
    assert load(out).card.trained_on == (f"{watch.name}/judge", "rows.jsonl")
    assert min(load(out).risks(["you snotling", "you grumpkin"])) > 0.5
    status, told, _ = weir("--pipeline", watch.file, "--data", data, "--out", out, "--json")
    report = json.loads(told)
    assert sum(report["held_out"].values()) < len(texts() + insults) * 0.3
    assert (report["learned_from"]["texts"], report["learned_as_well_from"]) == (
        len(texts() + insults),
        len(given),
    )


def test_only_events_since_then_are_learned_from(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(rows=1200), "allow")
    watch.judged(texts("grumpkin", rows=4000), "block", days=3)
    watch.judged(texts("grumpkin", rows=4000), "allow", days=40)
    out = tmp_path / "x.safetensors"
    status, told, err = weir("--pipeline", watch.file, "--out", out, "--since", "7d", "--json")
    assert status == 0, err
    assert json.loads(told)["labelled_both_ways"] == 0
    status, _, err = weir("--pipeline", watch.file, "--out", out, "--since", "1d")
    assert status == 2
    assert f"{watch.name}/judge: too few rows to fit: 0 are to be flagged and " in err


def test_thresholds_of_people_are_not_taken_over(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(rows=1500), "allow")
    watch.judged(texts("grumpkin", rows=4000), "block")
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    told = weir("--pipeline", watch.file, "--out", old)[1]
    watch.judged(texts("wretchface", rows=3000, seed=5), "block")
    watch.write(cascade=pasted(told) | {"reference": "people", "pass_below": 0.2, "audit": 0.05})
    status, told, err = weir("--pipeline", watch.file, "--out", new)
    assert status == 0, err
    assert "pass_below and flag_from of the file were fitted to the old screen" in told
    assert pasted(told) == {
        "screen": str(new), "sha256": load(new).sha256, "reference": "people", "audit": 0.05
    }  # fmt: skip
    watch.write(cascade=pasted(told))
    with pytest.raises(pipeline.PipelineError, match="reference people needs pass_below"):
        pipeline.load(watch.file)


def test_the_old_screen_is_not_overwritten(weir: Weir, watch: Watch, tmp_path: Path) -> None:
    watch.judged(texts(), "allow")
    watch.judged(texts(*BAD), "block")
    out = tmp_path / "only.safetensors"
    watch.write(cascade=pasted(weir("--pipeline", watch.file, "--out", out)[1]))
    before = out.read_bytes()
    status, _, err = weir("--pipeline", watch.file, "--out", out)
    assert (status, "is the old screen: write the new one to another file" in err) == (2, True)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("stage", "options", "told"),
    [
        ({}, (), "the store has no verdict of this stage that a model or a person gave"),
        ({}, ("--since", "soon"), "--since 'soon' is neither a time"),
        ({}, ("--stage", "other"), "has no stage 'other'; there are: judge"),
        ({}, ("--flagged", "insult"), "--flagged goes with --data"),
        ({}, ("--data", "gone.jsonl"), "gone.jsonl"),
        (
            {
                "judge": {
                    "operator": "classify",
                    "classes": [{"name": "a", "definition": "a"}, {"name": "b", "definition": "b"}],
                }
            },
            (),
            "only what moderate judges can have a screen before it",
        ),
        ({"cascade": CASCADE}, (), "is not the screen that was pinned"),
        ({"cascade": CASCADE | {"screen": "gone.safetensors"}}, (), "the screen gone.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_done_is_told(
    weir: Weir, watch: Watch, tmp_path: Path, stage: dict[str, Any], options: tuple[str, ...], told: str
) -> None:
    watch.write(**stage)
    out = tmp_path / "x.safetensors"
    status, _, err = weir("--pipeline", watch.file, "--out", out, *options)
    assert status == 2
    assert told in err
    assert not out.exists()


def test_neither_file_nor_stage(weir: Weir, tmp_path: Path) -> None:
    status, _, err = weir("--out", tmp_path / "x.safetensors")
    assert (status, "name labelled rows with --data, a pipeline file with" in err) == (2, True)
    status, _, err = weir("--out", tmp_path / "x.safetensors", "--data", "rows.jsonl", "--since", "3d")
    assert (status, "--since goes with --pipeline" in err) == (2, True)


def test_the_store_is_away(weir: Weir, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", f"http://127.0.0.1:{free_port()}")
    status, _, err = weir("--pipeline", watch.file, "--out", tmp_path / "x.safetensors")
    assert status == 2
    assert "ClickHouse http://127.0.0.1:" in err


def test_the_extra_is_missing(weir: Weir, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inference.screen.compare", None)
    status, _, err = weir("--pipeline", watch.file, "--out", tmp_path / "x.safetensors")
    assert (status, "needs the extra `screen`: pip install 'weir[screen]'" in err) == (2, True)
