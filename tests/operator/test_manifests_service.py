"""The folder's operator on a real store: files in, configuration, sealed keys, Secrets and statuses out."""

import asyncio
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.config.support import domain, namespace, secret
from tests.support.nats import NatsServer
from tests.support.wait import eventually
from waypost_config.compiler import Settings
from waypost_config.credentials import Server
from waypost_config.reader import documents
from waypost_config.status import STATUS_PREFIX, StoredObject
from waypost_operator.manifests.reading import Reading
from waypost_operator.manifests.reconciler import Reconciler
from waypost_operator.manifests.settings import ManifestsSettings
from waypost_operator.manifests.shell import Shell
from waypost_queue import codec
from waypost_queue.config import Snapshot
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.kv import Bucket
from waypost_queue.seal import Sealer
from waypost_queue.store import Store

SEALER = Sealer(b"k" * 32)
SENDER = "[{name: app, subjects: [{kind: Secret, name: login}]}]"
ROUTE = "{route: {type: Smarthost, smarthost: {host: relay.example, secretRef: {name: relay}}}}"
LOGIN = secret("login", username="app@example.com", password="geheim")
RELAY = secret("relay", username="us", password="relay-geheim")
ALL_RUN: Mapping[str, list[int]] = {"ingress": [10**6], "delivery": [10**6]}


class Folder:
    """A folder of manifests, and a reconciler over it; `again` is a new process on the same store and data."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path / "manifests"
        self.path.mkdir(exist_ok=True)
        self.data = path / "data"
        self.watches: list[ConfigWatch] = []

    def settings(self, **more: object) -> ManifestsSettings:
        return ManifestsSettings(manifests=str(self.path), data_dir=self.data, **more)  # type: ignore[arg-type]

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    async def again(self, port: int = 2587, **more: object) -> Reconciler:
        settings = self.settings(**more)
        settings.secrets_dir.mkdir(parents=True, exist_ok=True)
        watch = ConfigWatch(self.store)
        await watch.start()
        self.watches.append(watch)
        return Reconciler(
            self.store,
            watch,
            Reading(settings),
            SEALER,
            Settings(pools=("default",)),
            secrets_dir=settings.secrets_dir,
            server=Server("127.0.0.1", port, "-----BEGIN\nCA\n"),
        )

    @property
    def snapshot(self) -> Snapshot:
        return self.watches[-1].snapshot

    async def statuses(self) -> dict[str, StoredObject]:
        entries = await Bucket(self.store, "state").entries(STATUS_PREFIX)
        found = [codec.decode(entry.value, StoredObject) for entry in entries.values()]
        return {each.name: each for each in found}

    async def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        (found,) = [one for one in (await self.statuses())[name].conditions if one.type == kind]
        return found.status, found.reason, found.message


@pytest.fixture
async def folder(store: Store, tmp_path: Path) -> AsyncIterator[Folder]:
    made = Folder(store, tmp_path)
    yield made
    for watch in made.watches:
        await watch.close()


async def test_a_folder_becomes_configuration_and_status(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN)
    reconciler = await folder.again()
    await reconciler.apply()
    assert folder.snapshot.domains["example.com"].generation == 1
    assert folder.snapshot.credentials["app@example.com"].hash.startswith("$argon2id$")
    await reconciler.tell({"ingress": [1, 1], "delivery": [1, 0]})
    pending = "Generation 1 runs on ingress 2/2, delivery 1/2 pods."
    assert await folder.condition("example.com", "Programmed") == ("False", "Pending", pending)
    await reconciler.tell(ALL_RUN)
    assert (await folder.condition("example.com", "Ready"))[0] == "True"


async def test_the_wanted_secret_is_made_once_with_all_that_an_application_needs(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER))
    await (await folder.again()).apply()
    file = folder.data / "secrets" / "shop" / "login.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (made,) = documents(str(file), file.read_text())
    values = made.data["stringData"]
    assert sorted(values) == ["ca.crt", "host", "password", "port", "uri", "username"]
    assert values["username"] == "login@example.com"
    assert values["ca.crt"] == "-----BEGIN\nCA\n"
    assert values["uri"] == f"smtp://login%40example.com:{values['password']}@127.0.0.1:2587"
    assert "login@example.com" in folder.snapshot.credentials
    before = file.read_text()
    generation = folder.snapshot.meta.generation
    await (await folder.again()).apply()
    assert file.read_text() == before
    assert folder.snapshot.meta.generation == generation


async def test_a_made_secret_follows_the_server_and_keeps_its_login(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER))
    await (await folder.again()).apply()
    file = folder.data / "secrets" / "shop" / "login.yaml"
    (old,) = documents("", file.read_text())
    hash_before = folder.snapshot.credentials["login@example.com"].hash
    await (await folder.again(port=3587)).apply()
    (new,) = documents("", file.read_text())
    assert new.data["stringData"]["port"] == "3587"
    assert new.data["stringData"]["password"] == old.data["stringData"]["password"]
    assert folder.snapshot.credentials["login@example.com"].hash == hash_before


async def test_a_secret_among_the_manifests_goes_before_a_made_one(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER))
    reconciler = await folder.again()
    await reconciler.apply()
    folder.write("b.yaml", LOGIN)
    await reconciler.apply()
    assert list(folder.snapshot.credentials) == ["app@example.com"]


async def test_a_bad_manifest_leaves_the_last_good_version_in_force_and_says_why(folder: Folder) -> None:
    folder.write("a.yaml", domain(suspend="Outbound"))
    folder.write("b.yaml", domain("b.example"))
    reconciler = await folder.again()
    await reconciler.apply()
    folder.write("a.yaml", domain(suspend="Sometimes"))
    folder.write("b.yaml", domain("b.example", suspend="All"))
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert folder.snapshot.domains["example.com"].suspend == "Outbound"
    assert folder.snapshot.domains["b.example"].suspend == "All"
    status, reason, message = await folder.condition("example.com", "Programmed")
    assert (status, reason) == ("False", "Invalid")
    assert f"{folder.path}/a.yaml:5: spec.suspend: Unsupported value" in message
    assert message.endswith("Generation 1 stays in force.")


async def test_the_last_good_version_outlives_the_process(folder: Folder) -> None:
    folder.write("a.yaml", domain(suspend="Outbound", senders=SENDER) + LOGIN)
    folder.write("b.yaml", domain("b.example"))
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    hash_before = folder.snapshot.credentials["app@example.com"].hash
    folder.write("a.yaml", "a: [1")
    folder.write("b.yaml", domain("b.example", suspend="Sometimes"))
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert folder.snapshot.domains["example.com"].suspend == "Outbound"
    assert not folder.snapshot.domains["b.example"].deleted
    assert folder.snapshot.credentials["app@example.com"].hash == hash_before
    assert not (folder.data / "secrets" / "shop").exists()


async def test_a_folder_that_vanishes_keeps_all_that_it_held_and_an_emptied_one_does_not(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN)
    reconciler = await folder.again()
    await reconciler.apply()
    folder.path.rename(folder.path.with_name("elsewhere"))
    await reconciler.apply()
    assert not folder.snapshot.domains["example.com"].deleted
    assert list(folder.snapshot.credentials) == ["app@example.com"]
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        await folder.again()
    folder.path.mkdir()
    await reconciler.apply()
    assert folder.snapshot.domains["example.com"].deleted


async def test_an_object_that_was_never_good_is_shown_with_its_problem(folder: Folder) -> None:
    folder.write("a.yaml", domain(suspend="Sometimes"))
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert (await folder.condition("example.com", "Ready"))[:2] == ("False", "Invalid")
    assert folder.snapshot.domains == {}


async def test_a_domain_that_is_gone_is_marked_and_its_status_goes(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN)
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    (folder.path / "a.yaml").unlink()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert folder.snapshot.domains["example.com"].deleted
    assert folder.snapshot.credentials == {}
    assert await folder.statuses() == {}


async def test_smarthost_passwords_lie_sealed_and_go_with_the_last_route_that_names_them(folder: Folder) -> None:
    folder.write("a.yaml", domain(outbound=ROUTE) + RELAY)
    reconciler = await folder.again()
    await reconciler.apply()
    keys = Bucket(folder.store, "keys")
    (entry,) = (await keys.entries()).values()
    assert entry.key == "smarthost.shop.relay"
    assert b"relay-geheim" not in entry.value
    assert SEALER.open(entry.key, entry.value) == b"relay-geheim"
    await reconciler.apply()
    again = await keys.get(entry.key)
    assert again is not None
    assert again.revision == entry.revision
    folder.write("a.yaml", domain() + RELAY)
    await reconciler.apply()
    assert await keys.entries() == {}


async def test_a_deleted_domain_keeps_its_password_for_the_mail_that_is_queued(folder: Folder) -> None:
    folder.write("a.yaml", domain(outbound=ROUTE) + RELAY)
    reconciler = await folder.again()
    await reconciler.apply()
    (folder.path / "a.yaml").unlink()
    await reconciler.apply()
    assert list(await Bucket(folder.store, "keys").entries()) == ["smarthost.shop.relay"]


async def test_a_value_of_the_command_line_goes_over_the_manifest(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-a-file\n")
    folder.write("a.yaml", domain(outbound=ROUTE) + RELAY)
    override = f"shop/relay=password=@{tmp_path / 'password'}"
    await (await folder.again(secret_overrides=override)).apply()
    (entry,) = (await Bucket(folder.store, "keys").entries()).values()
    assert SEALER.open(entry.key, entry.value) == b"from-a-file"


async def test_generations_count_changes_of_the_spec_over_restarts(folder: Folder) -> None:
    folder.write("a.yaml", domain())
    reconciler = await folder.again()
    for text in (domain(), domain(suspend="All"), domain(suspend="All") + "# a comment\n"):
        folder.write("a.yaml", text)
        await reconciler.apply()
        await reconciler.tell(ALL_RUN)
    assert (await folder.statuses())["example.com"].generation == 2
    reconciler = await folder.again()
    folder.write("a.yaml", domain())
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert (await folder.statuses())["example.com"].generation == 3


@asynccontextmanager
async def running(shell: Shell) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(shell.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task


async def test_files_are_watched_and_a_store_that_was_away_is_caught_up_with(
    folder: Folder, nats_server: NatsServer
) -> None:
    folder.write("a.yaml", domain())
    reconciler = await folder.again()
    shell = Shell(reconciler, [folder.path], lambda: ALL_RUN)
    async with running(shell):
        await eventually(lambda: not shell.problem, 10.0, "the first configuration is published")
        folder.write("b.yaml", domain("b.example"))
        await eventually(lambda: "b.example" in folder.snapshot.domains, 10.0, "the new file is in force")
        await nats_server.kill()
        folder.write("b.yaml", domain("b.example", suspend="All"))
        await nats_server.start()
        await eventually(lambda: folder.snapshot.domains["b.example"].suspend == "All", 30.0, "the change is in force")


@pytest.mark.parametrize(
    "text", ["relay=password=@f", "shop/relay=@f", "shop/relay=password=plain", "shop/relay=password=@"]
)
def test_a_secret_override_says_how_it_is_written(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write NS/NAME=KEY=@FILE"):
        ManifestsSettings(manifests="-", data_dir=tmp_path, secret_overrides=text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["desk=h:1", "shop/desk=h", "shop/desk=h:0", "shop/desk=:1"])
def test_a_service_override_says_how_it_is_written(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write NS/NAME=HOST:PORT"):
        ManifestsSettings(manifests="-", data_dir=tmp_path, service_overrides=text)  # type: ignore[arg-type]


async def test_a_domain_whose_first_version_was_broken_is_no_older_than_its_file(folder: Folder) -> None:
    folder.write("a.yaml", domain(namespace="shop"))
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    for text in (domain(namespace="evil", suspend="Sometimes"), domain(namespace="evil")):
        folder.write("b.yaml", text)
        await reconciler.apply()
        await reconciler.tell(ALL_RUN)
    assert folder.snapshot.domains["example.com"].namespace == "shop"


async def test_a_file_that_is_empty_for_the_moment_of_its_writing_ends_nothing(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN)
    reconciler = await folder.again()
    await reconciler.apply()
    seen: list[bool] = []
    watch = folder.watches[-1]
    watch.on_change(lambda snapshot: seen.append(snapshot.domains["example.com"].deleted))
    folder.write("a.yaml", "")
    passing = asyncio.create_task(reconciler.apply())
    await eventually(lambda: reconciler.looking_again, 5.0, "the first look is over")
    folder.write("a.yaml", domain(senders=SENDER, suspend="Outbound") + LOGIN)
    await passing
    assert folder.snapshot.domains["example.com"].suspend == "Outbound"
    assert True not in seen


async def test_the_last_good_rights_of_a_namespace_outlive_the_process(folder: Folder) -> None:
    senders = "[{name: a, subjects: [{kind: Namespaces, selector: {matchLabels: {mail: allowed}}}]}]"
    folder.write("a.yaml", domain(senders=senders))
    folder.write("b.yaml", namespace("billing", labels="mail: allowed"))
    reconciler = await folder.again()
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    folder.write("b.yaml", namespace("billing", labels="mail: on"))
    reconciler = await folder.again()
    await reconciler.apply()
    (sender,) = folder.snapshot.domains["example.com"].senders
    assert sender.subjects[0].namespaces == ("billing",)


async def test_the_last_good_login_of_a_smarthost_outlives_the_process(folder: Folder) -> None:
    folder.write("a.yaml", domain(outbound=ROUTE))
    folder.write("b.yaml", RELAY)
    await (await folder.again()).apply()
    folder.write("b.yaml", "a: [1")
    await (await folder.again()).apply()
    smarthost = folder.snapshot.domains["example.com"].route.smarthost
    assert smarthost is not None
    assert (smarthost.username, smarthost.secret) == ("us", "smarthost.shop.relay")
    (entry,) = (await Bucket(folder.store, "keys").entries()).values()
    assert SEALER.open(entry.key, entry.value) == b"relay-geheim"


async def test_a_secret_that_cannot_be_made_keeps_no_other_domain_out(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + domain("b.example", "web", senders=SENDER))
    (folder.data / "secrets").mkdir(parents=True)
    (folder.data / "secrets" / "shop").write_text("in the way")
    await (await folder.again()).apply()
    assert list(folder.snapshot.credentials) == ["login@b.example"]
    assert set(folder.snapshot.domains) == {"example.com", "b.example"}


async def test_a_changed_password_is_in_force_without_a_restart_and_lies_in_no_plain_text(folder: Folder) -> None:
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN)
    reconciler = await folder.again()
    await reconciler.apply()
    before = folder.snapshot.credentials["app@example.com"].hash
    folder.write("a.yaml", domain(senders=SENDER) + LOGIN.replace("geheim", "neues-geheim"))
    await reconciler.apply()
    await reconciler.tell(ALL_RUN)
    assert folder.snapshot.credentials["app@example.com"].hash != before
    for bucket in ("config", "state", "keys"):
        for entry in (await Bucket(folder.store, bucket).entries()).values():
            assert b"geheim" not in entry.value


async def test_the_links_of_a_mounted_configmap_are_followed_when_they_are_swapped(folder: Folder) -> None:
    for version, suspend in (("..1", "None"), ("..2", "All")):
        (folder.path / version).mkdir()
        (folder.path / version / "a.yaml").write_text(domain(suspend=suspend))
    (folder.path / "..data").symlink_to("..1")
    (folder.path / "a.yaml").symlink_to("..data/a.yaml")
    shell = Shell(await folder.again(), [folder.path], lambda: ALL_RUN)
    async with running(shell):
        await eventually(lambda: not shell.problem, 10.0, "the first configuration is published")
        (folder.path / "..fresh").symlink_to("..2")
        (folder.path / "..fresh").rename(folder.path / "..data")
        await eventually(
            lambda: folder.snapshot.domains["example.com"].suspend == "All", 10.0, "the new one is in force"
        )


async def test_a_folder_that_is_replaced_is_watched_on(folder: Folder) -> None:
    folder.write("a.yaml", domain())
    shell = Shell(await folder.again(), [folder.path], lambda: ALL_RUN)
    async with running(shell):
        await eventually(lambda: not shell.problem, 10.0, "the first configuration is published")
        folder.path.rename(folder.path.with_name("old"))
        folder.path.mkdir()
        folder.write("a.yaml", domain(suspend="Outbound"))
        suspended = lambda: folder.snapshot.domains["example.com"].suspend  # noqa: E731
        await eventually(lambda: suspended() == "Outbound", 10.0, "the new folder is in force")
        folder.write("a.yaml", domain(suspend="All"))
        await eventually(lambda: suspended() == "All", 10.0, "a change in it is in force")
