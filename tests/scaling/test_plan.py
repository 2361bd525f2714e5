"""The sums of docs/scaling.md."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench import scaling
from bench.scaling import Numbers, Origin, plan, prompts_per_gpu

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_calls_are_what_neither_screen_nor_reuse_takes() -> None:
    found = plan(Numbers(rate=1000, saved=0.5, duplicates=0.2))
    assert found.calls == pytest.approx(400)
    assert plan(Numbers(saved=1.0)).gpus == 0


def test_the_roofline() -> None:
    plain = Numbers(tokens=100, prefix=0, parameters=1, attention=0, peak=1, mfu=0.5, host=1e9)
    assert prompts_per_gpu(plain) == pytest.approx(0.5e12 / (2 * 1e9 * 100))
    assert prompts_per_gpu(replace(plain, host=1.5)) == 1.5
    read = replace(plain, attention=1000, prefix=600)
    assert scaling.flops(read) == pytest.approx(2e11 + 4 * 1000 * 100 * 650)


def test_ten_times_the_rate_takes_ten_times_the_bytes_and_fewer_dollars_each() -> None:
    one, ten = plan(Numbers(rate=10_000)), plan(Numbers(rate=100_000))
    for name in ("kafka_in", "kafka_out", "engine_bytes", "store_day", "store_disk", "kafka_disk"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    assert 8 * one.workers < ten.workers <= 10 * one.workers
    assert ten.per_million < one.per_million


def test_money_is_the_sum_of_its_parts() -> None:
    found = plan(Numbers(rate=5000, gpu_hour=2, host=100, gpu_busy=0.5, gpu_spare=0))
    assert found.gpus == 100
    assert found.usd_month["GPUs"] == pytest.approx(100 * 2 * 730)
    assert found.total == pytest.approx(sum(found.usd_month.values()))
    assert found.per_million == pytest.approx(found.total / (5000 * 86_400 * 365 / 12) * 1e6)


def test_every_number_has_an_origin_and_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    for one in fields(Numbers):
        assert isinstance(one.metadata["origin"], Origin)
        assert one.metadata["note"]
    scaling.main(["--rate", "5000", "--tokens", "80", "--saved", "0.5"])
    assert "5,000/s, 50% saved" in capsys.readouterr().out
    scaling.main(["--numbers"])
    assert "--gpu-hour" in capsys.readouterr().out


def test_a_share_beyond_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["--saved", "90"])
    assert "saved is a share from 0 to 1, not 90" in capsys.readouterr().err
