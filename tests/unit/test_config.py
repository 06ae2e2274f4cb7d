"""Settings: defaults, then the file, then flags; and one clear line for what is wrong."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from components import config
from components.errors import SettingsError
from pipelines.flags import add_flags, from_flags


def parse(*flags: str, sections: tuple[str, ...] = ("data", "training")) -> config.Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser, *sections)
    return from_flags(parser.parse_args(flags))


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("training: {epochs: 5, learning_rate: 3e-5}\n")
    settings = parse("--config", str(file), "--epochs", "7")
    assert (settings.training.epochs, settings.training.learning_rate) == (7, 3e-5)
    assert settings.training.batch_size == config.TrainingSettings().batch_size


def test_the_seeds_of_all_sections_are_one_flag() -> None:
    settings = parse("--seed", "99")
    assert (settings.data.seed, settings.training.seed) == (99, 99)


def test_other_settings_of_one_name_are_flags_apart() -> None:
    sections = ("promotion", "drift")
    settings = parse("--drift-level", "0.2", sections=sections)
    assert (settings.promotion.level, settings.drift.level) == (config.PromotionSettings().level, 0.2)
    assert parse("--promotion-level", "0.2", sections=sections).promotion.level == 0.2
    assert parse("--level", "0.2", sections=("drift", "retrain")).drift.level == 0.2
    with pytest.raises(SystemExit):
        parse("--level", "0.2", sections=sections)


def test_a_command_may_have_one_setting_of_a_section() -> None:
    assert parse("--chunk-rows", "9", sections=("batch.chunk_rows",)).batch.chunk_rows == 9
    with pytest.raises(SystemExit):
        parse("--poll-seconds", "9", sections=("batch.chunk_rows",))


def test_an_empty_list_overrides_one_that_is_not() -> None:
    assert config.load(None, {"cluster": {"tolerations": ""}}).cluster.tolerations == ()


def test_overrides_round_trip() -> None:
    settings = parse("--labels", "bad,fine,good", "--epochs", "1")
    assert config.load(None, config.as_overrides(settings)) == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nosuch": {}}, "no section 'nosuch'; there are data, training"),
        ({"training": {"epoch": 1}}, "no setting training.epoch; there are epochs"),
        ({"training": {"epochs": "two"}}, "training.epochs must be a whole number, not 'two'"),
        ({"training": {"epochs": 0}}, "training.epochs must be from 1 to 100, not 0"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate must be a number"),
        ({"training": {"epochs": float("inf")}}, "training.epochs must be a whole number, not inf"),
        ({"deployment": {"ready_seconds": float("inf")}}, "deployment.ready_seconds must be a number, not inf"),
        ({"training": 3}, "section 'training' must hold settings"),
    ],
)
def test_what_is_wrong_is_said(overrides: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.load(None, overrides)


def test_every_setting_has_help_and_a_default_within_its_range() -> None:
    for section in config.SECTIONS:
        for f in dataclasses.fields(getattr(config.Settings, section)):
            assert f.metadata["help"], f.name
            config.load(None, {section: {f.name: f.default}})
