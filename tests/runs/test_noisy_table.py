"""A latency table that whole networks contradict stops the run in one line, unless noise is accepted. Measurements are invented."""

import pytest

from rtseg.core.errors import ConfigError, NoisyMeasurement
from rtseg.core.values import Latency
from rtseg.runs.config import load_preset
from rtseg.runs.opening import open_run
from rtseg.runs.steps import cached_table, require_accurate

STRICT = load_preset("demo")


def networks(*busy):
    return [
        (
            None,
            Latency(
                10.0,
                9.0,
                11.0,
                5,
                (1, 3, 64, 128),
                "here",
                "torch",
                "fp32",
                1,
                protocol={"load": {"busy": b, "before": 0.0, "during": 1.5, "cores": 2}},
            ),
        )
        for b in busy
    ]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("{}")
    return path


@pytest.mark.parametrize("error", [0.0, 0.23, 0.5])
def test_a_small_error_says_nothing(error, table):
    assert (
        require_accurate({"mean_absolute_error": error}, networks(False, False), STRICT, table) == ""
        and table.is_file()
    )


def test_disturbed_networks_are_told_even_if_the_table_is_good(table):
    assert (
        require_accurate({"mean_absolute_error": 0.1}, networks(True, False), STRICT, table)
        == "Of 2 networks, 1 measured while others used 1.5 of 2 cores."
    )


def test_a_table_that_quiet_networks_contradict_is_put_aside(table):
    said = []
    with pytest.raises(
        NoisyMeasurement,
        match="misses 2 random networks by 78% on average, and at most 50% is allowed.*times the table anew.*--accept-noisy",
    ) as stopped:
        require_accurate({"mean_absolute_error": 0.78}, networks(False, False), STRICT, table, say=said.append)
    assert (
        "\n" not in str(stopped.value)
        and not table.is_file()
        and table.with_name("table.json.old").is_file()
        and len(said) == 1
    )


def test_a_table_is_kept_if_others_disturbed_the_networks(table):
    with pytest.raises(
        NoisyMeasurement, match="1 of them measured while others used 1.5 of 2 cores.*the table is kept"
    ):
        require_accurate({"mean_absolute_error": 2.0}, networks(False, True), STRICT, table)
    assert table.is_file()


def test_accepted_noise_is_told_and_goes_on(table):
    config = STRICT.with_values({"latency.accept_noisy": True})
    assert (
        require_accurate({"mean_absolute_error": 0.78}, networks(True, True), config, table).startswith(
            "Noise is accepted: the latency table misses"
        )
        and table.is_file()
    )


@pytest.mark.parametrize("bound, stops", [(0.1, True), (0.3, False), (3.0, False)])
def test_the_bound_is_a_setting(bound, stops, table):
    config = STRICT.with_values({"latency.max_error": bound})
    if stops:
        with pytest.raises(NoisyMeasurement, match="at most 10% is allowed"):
            require_accurate({"mean_absolute_error": 0.23}, networks(False, False), config, table)
    else:
        assert require_accurate({"mean_absolute_error": 0.23}, networks(False, False), config, table) == ""
    with pytest.raises(ConfigError):
        STRICT.with_values({"latency.max_error": 0})


def test_accepting_noise_keeps_the_table_that_was_measured():
    assert (
        cached_table(STRICT)
        == cached_table(STRICT.with_values({"latency.accept_noisy": True, "latency.max_error": 0.2}))
        != cached_table(STRICT.with_values({"latency.threads": 7}))
    )


def test_noise_is_accepted_in_a_run_that_has_begun_and_stays_accepted(tmp_path):
    open_run(STRICT, tmp_path / "run")
    accepted, _ = open_run(STRICT.with_values({"latency.accept_noisy": True}), tmp_path / "run")
    assert accepted.config()["latency"]["accept_noisy"] is True
    run, config = open_run(STRICT, tmp_path / "run")
    assert config.latency.accept_noisy is True and run.config() == config.to_dict()
    with pytest.raises(ConfigError, match="seed: 0 -> 3"):
        open_run(STRICT.with_values({"seed": 3, "latency.accept_noisy": True}), tmp_path / "run")
