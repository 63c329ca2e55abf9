"""Settings from every source, and every misspelling found."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from eventbus_core.errors import LoadError, SettingsError
from eventbus_core.memory import MemorySettings
from eventbus_core.settings import Settings
from tests.distributions import Distributions

SECRET = "hunter2-xyzzy"


@pytest.fixture(autouse=True)
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distributions:
    """An empty current directory, no variables of ours, and a backend ``lemon`` beside memory."""
    for name in list(os.environ):
        if name.upper().startswith("EVENTBUS_"):
            monkeypatch.delenv(name)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    found = Distributions(tmp_path / "site", monkeypatch)
    found.install_core()
    found.install_backend("lemon")
    return found


def lemon(settings: Settings) -> Any:
    return settings.backend_settings()


def toml(text: str) -> None:
    Path("eventbus.toml").write_text(text, "utf-8")


def test_defaults() -> None:
    settings = Settings.load()
    assert settings.backend == "memory"
    assert settings.source.startswith("/")
    assert len(settings.source) > 1
    assert (settings.send_buffer_records, settings.send_buffer_bytes) == (100_000, 64 * 1024 * 1024)
    assert (settings.send_wait_seconds, settings.drain_seconds) == (30.0, 30.0)
    assert isinstance(settings.backend_settings(), MemorySettings)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_BACKEND", "lemon")
    monkeypatch.setenv("EVENTBUS_DRAIN_SECONDS", "2.5")
    monkeypatch.setenv("EVENTBUS_LEMON__URL", "lemon://host")
    monkeypatch.setenv("EVENTBUS_LEMON__SIZE", "3")
    monkeypatch.setenv("eventbus_lemon__password", SECRET)
    settings = Settings.load()
    assert (settings.backend, settings.drain_seconds) == ("lemon", 2.5)
    assert (lemon(settings).url, lemon(settings).size) == ("lemon://host", 3)
    assert lemon(settings).password == SecretStr(SECRET)


def test_lists_and_tables_are_json_in_the_environment_and_text_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_BACKEND", "lemon")
    monkeypatch.setenv("EVENTBUS_LEMON__HOSTS", '["a", "b"]')
    monkeypatch.setenv("EVENTBUS_LEMON__OPTIONS", '{"queued.min.messages": "7"}')
    monkeypatch.setenv("EVENTBUS_LEMON__MODE", "{text}")
    monkeypatch.setenv("EVENTBUS_LEMON__PASSWORD", '["1"]')
    settings = lemon(Settings.load())
    assert settings.hosts == ("a", "b")
    assert settings.options == {"queued.min.messages": "7"}
    assert settings.mode == "{text}"
    assert settings.password.get_secret_value() == '["1"]'


def test_the_file() -> None:
    toml('backend = "lemon"\nsource = "/shop"\n[lemon]\nsize = 4\n[lemon.options]\n"a.b" = "c"')
    settings = Settings.load()
    assert settings.source == "/shop"
    assert (lemon(settings).size, lemon(settings).options) == (4, {"a.b": "c"})


def test_the_file_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml('source = "/here"')
    other = tmp_path / "other.toml"
    other.write_text('source = "/there"')
    monkeypatch.setenv("EVENTBUS_CONFIG", str(other))
    assert Settings.load().source == "/there"
    monkeypatch.setenv("EVENTBUS_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"EVENTBUS_CONFIG names 'nowhere\.toml', which does not exist"):
        Settings.load()


def test_environment_over_file_and_arguments_over_both_setting_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    toml('backend = "lemon"\nsource = "/file"\nsend_wait_seconds = 1\n[lemon]\nsize = 1\nmode = "file"\nurl = "file"')
    monkeypatch.setenv("EVENTBUS_SOURCE", "/env")
    monkeypatch.setenv("EVENTBUS_SEND_WAIT_SECONDS", "2")
    monkeypatch.setenv("EVENTBUS_LEMON__SIZE", "2")
    monkeypatch.setenv("EVENTBUS_LEMON__MODE", "env")
    settings = Settings.load(send_wait_seconds=3.0, lemon={"mode": "arg"})
    assert (settings.source, settings.send_wait_seconds) == ("/env", 3.0)
    assert (lemon(settings).size, lemon(settings).mode, lemon(settings).url) == (2, "arg", "file")


def test_a_url_names_the_backend_and_its_settings() -> None:
    settings = Settings.from_url("lemon://host:1?size=5")
    assert settings.backend == "lemon"
    assert (lemon(settings).url, lemon(settings).size, lemon(settings).tls) == ("lemon://host:1", 5, False)
    assert lemon(Settings.from_url("lemon+tls://host")).tls is True
    memory = Settings.from_url("memory://shop").backend_settings()
    assert isinstance(memory, MemorySettings)
    assert memory.name == "shop"


def test_a_url_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    toml('backend = "memory"\n[lemon]\nsize = 9\nmode = "file"')
    monkeypatch.setenv("EVENTBUS_URL", "lemon://host?size=5")
    settings = Settings.load()
    assert (settings.backend, lemon(settings).size, lemon(settings).mode) == ("lemon", 5, "file")


def test_a_url_for_one_backend_and_the_name_of_another_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "lemon://host")
    monkeypatch.setenv("EVENTBUS_BACKEND", "memory")
    with pytest.raises(
        SettingsError, match=r"EVENTBUS_URL is for backend 'lemon', but .*EVENTBUS_BACKEND says 'memory'"
    ):
        Settings.load()


def test_a_url_that_is_overridden_needs_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    toml('url = "absent://host"')
    monkeypatch.setenv("EVENTBUS_BACKEND", "memory")
    assert Settings.load().backend == "memory"


@pytest.mark.parametrize(
    ("url", "message"), [("host:9092", "is not a URL"), ("", "is not a URL"), ("lemon+ssl://h", r"write lemon\+tls://")]
)
def test_a_url_that_is_none(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_url(url)


def test_a_url_of_an_unknown_backend_is_a_load_error() -> None:
    with pytest.raises(LoadError, match="did you mean 'lemon'") as caught:
        Settings.from_url("lemno://host")
    assert caught.value.reason == "unknown"


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("EVENTBUS_BAKEND", "EVENTBUS_BACKEND"),
        ("EVENTBUS_LEMON_URL", "EVENTBUS_LEMON__URL"),
        ("EVENTBUS_LEMMON__SIZE", "EVENTBUS_LEMON__SIZE"),
        ("EVENTBUS_SEND_BUFFER_RECORD", "EVENTBUS_SEND_BUFFER_RECORDS"),
        ("EVENTBUS_DRAIN__SECONDS", "EVENTBUS_DRAIN_SECONDS"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_the_right_one(
    variable: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert f"environment variable {variable}" in str(caught.value)
    assert f"did you mean {hint!r}?" in str(caught.value)


def test_variables_that_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_KAFKA", "host")
    for name, value in {
        "EVENTBUS_SERVICE_HOST": "10.0.0.1",
        "EVENTBUS_PORT": "tcp://10.0.0.1:6379",
        "EVENTBUS_REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
        "EVENTBUS_REDIS_SERVICE_PORT_CLIENT": "6379",
    }.items():
        monkeypatch.setenv(name, value)  # what Kubernetes sets when a Service has such a name
    Settings.load()
    monkeypatch.setenv("EVENTBUS_REDIS_PORT", "6379")
    with pytest.raises(SettingsError, match="EVENTBUS_REDIS_PORT"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('bakend = "x"', r"eventbus\.toml: bakend: there is no such setting; did you mean 'backend'\?"),
        ("[lemmon]\nsize = 1", r"lemmon: there is no such setting; did you mean 'lemon'\?"),
        ("lemon = 5", r"'lemon' in eventbus\.toml must be a table"),
        ("backend = ", r"eventbus\.toml' is not TOML"),
        ("drain_seconds = -1", r"'drain_seconds' \(.*eventbus\.toml\): Input should be greater than 0"),
        ('backend = "lemon"\n[lemon]\nsizze = 1', r"'lemon\.sizze' \(.*eventbus\.toml\); did you mean 'size'\?"),
        ('backend = "lemon"\n[lemon]\nsize = "big"', r"'lemon\.size' \(.*eventbus\.toml\): Input should be"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_names_itself_and_the_file(text: str, message: str) -> None:
    toml(text)
    with pytest.raises(SettingsError, match=message):
        Settings.load().backend_settings()


def test_a_misspelt_argument_or_url_parameter_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"the arguments: bakend: .*did you mean 'backend'\?"):
        Settings(bakend="x")
    with pytest.raises(SettingsError, match=r"unknown setting 'lemon\.sizze'.*did you mean 'size'\?"):
        Settings.from_url("lemon://host?sizze=3")


def test_a_block_of_a_known_backend_that_is_not_installed_does_no_harm() -> None:
    toml("[pulsar]\nurl = 'pulsar://host'")
    assert Settings.load().backend == "memory"


def test_a_source_must_be_a_uri_reference() -> None:
    with pytest.raises(SettingsError, match=r"'source'.*URI reference"):
        Settings(source="my service")


def test_settings_are_frozen_equal_and_can_be_pickled() -> None:
    settings = Settings(source="/a", lemon={"size": 2})
    with pytest.raises(ValidationError):
        settings.source = "/b"
    assert settings == Settings(source="/a", lemon={"size": 2})
    assert settings != Settings(source="/a", lemon={"size": 3})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_reading_does_not_change_what_was_passed() -> None:
    block = {"size": 2, "options": {"a": "b"}}
    Settings(lemon=block).backend_settings()
    assert block == {"size": 2, "options": {"a": "b"}}


@pytest.mark.parametrize(
    "failing",
    [
        lambda: Settings.from_url(f"lemon://user:{SECRET}@host?sizze=3"),
        lambda: Settings.from_url(f"lemon://user:{SECRET}@host?size={SECRET}"),
        lambda: Settings.from_url(f"lemon+ssl://user:{SECRET}@host"),
        lambda: Settings.from_url(f"lemno://user:{SECRET}@host"),
        lambda: Settings.from_url(f"memory://u@[{SECRET}"),
        lambda: Settings.from_url(f"lemon://user:{SECRET}/x@host?check=1"),
        lambda: Settings.from_url(SECRET),
        lambda: Settings(backend="lemon", lemon={"password": [SECRET]}).backend_settings(),
        lambda: Settings(backend="lemon", lemon={"password": SECRET, "size": SECRET}).backend_settings(),
        lambda: Settings(drain_seconds=SECRET),
        lambda: Settings(url=f"lemon://{SECRET}@host", backend="memory"),
    ],
)
def test_no_error_shows_a_value(failing: Callable[[], object]) -> None:
    with pytest.raises((SettingsError, LoadError)) as caught:
        failing()
    shown = "".join(traceback.format_exception_only(caught.value))
    chain: BaseException | None = caught.value
    while chain is not None:
        shown += str(chain) + repr(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert SECRET not in shown


def test_no_repr_shows_a_secret_or_the_credentials_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_LEMON__PASSWORD", SECRET)
    settings = Settings.from_url(f"lemon://user:{SECRET}@host")
    assert lemon(settings).password.get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings) + repr(settings.backend_settings())
    assert SECRET not in repr(vars(settings)) + settings.model_dump_json()
    assert SECRET not in repr(settings.__pydantic_private__)
