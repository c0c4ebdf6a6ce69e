"""Test the copy of a run's pictures by row, on a real store. If these break, a shop publishes another
product's picture, or loses a file of its own to the copy."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import infra.transfer
from ace_tasks.errors import SettingsError
from ace_tasks.provenance.keys import results_key, summary_key
from ace_tasks.provenance.record import Record
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher
from ace_tasks.runs import take_out
from ace_tasks.runs.results import Result, ResultsWriter, Summary
from ace_tasks.runs.take_out import Account, TakeOut
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.runs.test_review import would_be
from tests.support import processes
from tests.support.processes import ace_here

RUN = "run-1"


@pytest.fixture
def output(prefix: str) -> str:
    return join_uri(prefix, "out")


@pytest.fixture
def item(planned: Callable[..., WorkItem]) -> WorkItem:
    return planned(task="edit", image="in/image.png")


def content(n: int) -> bytes:
    return f"picture {n}".encode()


def publish(store: Store, output: str, item: WorkItem, n: int) -> Record:
    """Publish the picture of item `n`, which row `asker-n` asked for first."""
    item_id = hashlib.sha256(str(n).encode()).hexdigest()
    of = item.model_copy(update={"item_id": item_id, "row_id": f"asker-{n}"})
    return Publisher(store, output).publish(
        would_be(output, of, content(n)), File("png", content(n))
    )


def row(line: int, row_id: str, record: Record, **more: Any) -> Result:
    return Result(
        line,
        row_id,
        "edit",
        "done",
        record.item_id,
        record.output.uri,
        record.output.sha256,
        **more,
    )


def failed(line: int, row_id: str, item_id: str, code: str) -> Result:
    return Result(line, row_id, "edit", "failed", item_id, error_code=code, error="why")


def leave(store: Store, output: str, rows: list[Result], folder: Path, run_id: str = RUN) -> None:
    with ResultsWriter(folder / "r.parquet", folder / "r.csv") as writer:
        for each in rows:
            writer.write(each)
    uri = join_uri(output, results_key(run_id, "parquet"))
    store.upload(folder / "r.parquet", uri, "application/vnd.apache.parquet")


@pytest.fixture
def run(store: Store, output: str, item: WorkItem, tmp_path: Path) -> list[Record]:
    """A run of rows whose pictures other rows asked for first; two of them share one."""
    made = [publish(store, output, item, n) for n in range(3)]
    rows = [
        row(1, "a", made[0]),
        row(2, "b", made[1]),
        row(3, "c", made[1], same_as="b"),
        row(4, "d.png", made[2]),
    ]
    leave(store, output, rows, tmp_path)
    return made


def take(store: Store, output: str, to: object, run_id: str = RUN, **more: Any) -> Account:
    with closing(TakeOut(store, output, run_id, str(to), **more)) as taking:
        account = Account(taking.run_id, str(to))
        for each in taking.take():
            account.add(each)
    return account


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


NAMED = {"a.png": content(0), "b.png": content(1), "c.png": content(1), "d.png.png": content(2)}


def test_each_row_has_a_file_of_its_own_name(
    store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    account = take(store, output, tmp_path / "new" / "to")
    assert files(tmp_path / "new" / "to") == NAMED
    assert account.as_dict() == {
        "run_id": RUN,
        "to": str(tmp_path / "new" / "to"),
        "rows": 4,
        "written": 4,
        "there_before": 0,
        "without": {},
    }


def test_on_s3_too_even_under_the_output(store: Store, output: str, run: list[Record]) -> None:
    to = join_uri(output, "by-row")
    assert take(store, output, f"{to}/").by_how == {"written": 4}
    assert {
        each.uri.removeprefix(f"{to}/"): store.get(each.uri) for each in store.list(f"{to}/")
    } == (NAMED)
    assert take(store, output, to).by_how == {"there_before": 4}


def places(tmp_path: Path, output: str) -> dict[str, str]:
    return {"a folder": str(tmp_path / "to"), "S3": join_uri(output, "by-row")}


def put(store: Store, to: str, name: str, data: bytes) -> None:
    if to.startswith("s3://"):
        store.put(f"{to}/{name}", data, "image/png")
    else:
        Path(to).mkdir(exist_ok=True)
        (Path(to) / name).write_bytes(data)


def read(store: Store, to: str, name: str) -> bytes:
    """By `Store.get`, which reads local files too."""
    return store.get(f"{to}/{name}")


@pytest.mark.parametrize("where", ["a folder", "S3"])
def test_a_copy_that_was_cut_goes_on_and_overwrites_nothing_unasked(
    where: str, store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    to = places(tmp_path, output)[where]
    put(store, to, "a.png", content(0))
    put(store, to, "b.png", b"my own")
    account = take(store, output, to)
    assert account.by_how == {"written": 2, "there_before": 1, "none": 1}
    assert account.without == {"name_taken": 1}
    assert "--overwrite replaces it" in "\n".join(account.lines())
    assert read(store, to, "b.png") == b"my own"
    assert take(store, output, to, overwrite=True).by_how == {"written": 1, "there_before": 3}
    assert read(store, to, "b.png") == content(1)


@pytest.mark.parametrize("where", ["a folder", "S3"])
def test_a_file_that_comes_while_its_picture_is_read_is_kept(
    where: str, store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    to = places(tmp_path, output)[where]

    class Meanwhile(Store):
        def get(self, uri: str, *more: Any, **options: Any) -> bytes:
            data = super().get(uri, *more, **options)
            if data == content(0):
                put(store, to, "a.png", b"my own")
            if data == content(2):  # as by another copy of the same run
                put(store, to, "d.png.png", data)
            return data

    account = take(Meanwhile(StoreSettings()), output, to)
    assert account.by_how == {"written": 3, "none": 1}
    assert account.without == {"name_taken": 1}
    assert read(store, to, "a.png") == b"my own"


def test_what_is_there_is_not_read_again(
    store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    take(store, output, tmp_path / "to")
    for each in store.list(f"{output}/images/"):
        store.delete(each.uri)
    assert take(store, output, tmp_path / "to").by_how == {"there_before": 4}


def test_why_a_row_has_no_file_is_reported(
    store: Store, output: str, run: list[Record], item: WorkItem, tmp_path: Path
) -> None:
    lost, changed = (publish(store, output, item, n) for n in (7, 8))
    store.delete(lost.output.uri)
    store.put(changed.output.uri, b"another", "image/png")
    rows = [
        row(1, "a", run[0]),
        row(2, "lost", lost),
        row(3, "changed", changed),
        failed(4, "broken", "05" * 32, "bad_image"),
        failed(5, "again", "06" * 32, "bad_image"),
        Result(6, None, None, "rejected", error_code="bad_row", error="id: missing"),
        Result(7, None, None, "forgotten", error="was forgotten"),
        Result(8, "before", "edit", "done_before", "07" * 32),
        row(9, "../../escaped", run[0]),
    ]
    rows.append(Result(10, "shops", "edit", "done", "08" * 32, f"{output}/images/shops/x.png", "0"))
    leave(store, output, rows, tmp_path)
    account = take(store, output, tmp_path / "to")
    assert account.without == {
        "bad_image": 2,
        "bad_result": 2,
        "bad_row": 1,
        "forgotten": 1,
        "picture_changed": 1,
        "picture_missing": 1,
        "record_missing": 1,
    }
    assert files(tmp_path / "to") == {"a.png": content(0)}
    assert "2 rows without a file: bad_image; for example row broken: why" in "\n".join(
        account.lines()
    )


def test_a_row_that_a_retry_or_a_review_finished_since_has_its_picture(
    store: Store, output: str, run: list[Record], item: WorkItem, tmp_path: Path
) -> None:
    """Results of an earlier version name no picture of a row done before. Its record does."""
    later = publish(store, output, item, 4)
    old = Result(2, "old", "edit", "done_before", run[1].item_id)
    leave(store, output, [failed(1, "a", later.item_id, "needs_review"), old], tmp_path)
    assert take(store, output, tmp_path / "to").by_how == {"written": 2}
    assert files(tmp_path / "to") == {"a.png": content(4), "old.png": content(1)}


def test_a_moved_output_gives_its_pictures(
    store: Store, prefix: str, output: str, run: list[Record], tmp_path: Path
) -> None:
    there = f"{prefix}/elsewhere"
    for each in [*store.list(f"{output}/")]:
        store.put(f"{there}{each.uri.removeprefix(output)}", store.get(each.uri), "x/x")
        store.delete(each.uri)
    assert take(store, there, tmp_path / "to").by_how == {"written": 4}
    assert files(tmp_path / "to") == NAMED


def test_names_of_one_file_on_a_case_insensitive_file_system_are_distinguished(
    store: Store, output: str, run: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(1, "mug", run[0]), row(2, "Mug", run[1])]
    leave(store, output, rows, tmp_path)
    assert take(store, output, tmp_path / "cased").by_how == {"written": 2}
    monkeypatch.setattr(take_out, "takes_cases_as_one", lambda folder: True)
    account = take(store, output, tmp_path / "to", overwrite=True)
    assert files(tmp_path / "to") == {"mug.png": content(0)}
    assert account.without == {"name_taken": 1}


def test_an_odd_id_leads_out_of_no_folder(
    store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    odd = ["..", ".", "-rf", ".png", "x" * 128]
    leave(store, output, [row(n, each, run[0]) for n, each in enumerate(odd)], tmp_path)
    take(store, output, tmp_path / "to" / "deep")
    assert files(tmp_path / "to" / "deep").keys() == {f"{each}.png" for each in odd}
    assert [each.name for each in (tmp_path / "to").iterdir()] == ["deep"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"run_id": "run-9"}, "run: accepted: a run with results under"),
        ({"run_id": "newest"}, "run: accepted: a run that has ended"),
        ({"to": "{output}/images"}, "to: accepted: a folder or prefix outside the output's own"),
        ({"to": "{output}/records/ab/"}, "to: accepted: a folder or prefix outside"),
        ({"to": "{file}"}, "to: accepted: a folder that can be written"),
        ({"output": "here"}, "output: accepted: s3://bucket/prefix"),
    ],
    ids=["run", "newest", "among-pictures", "among-records", "a-file", "output"],
)
def test_what_cannot_be_copied_is_refused(
    wrong: dict[str, str],
    message: str,
    store: Store,
    output: str,
    run: list[Record],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    given = {"output": "{output}", "to": str(tmp_path / "to")} | wrong
    places = {
        name: each.replace("{output}", output).replace("{file}", str(tmp_path / "file"))
        for name, each in given.items()
    }
    with pytest.raises(SettingsError, match=message):
        take(store, **places)  # type: ignore[arg-type]


def leave_summary(store: Store, output: str, run_id: str, flow: str, ended_at: datetime) -> None:
    counts = dict.fromkeys(("done", "done_before", "failed", "failed_before", "rejected"), 0)
    nothing = dict.fromkeys(("busy_share", "failures", "rejects"))
    summary = Summary(
        run_id=run_id,
        flow=flow,
        state="Completed",
        catalog="c",
        output=output,
        variant="toy",
        started_at=ended_at,
        ended_at=ended_at,
        rows=0,
        shared=0,
        by_error={},
        replicas=1,
        deaths=0,
        seconds=1,
        items_per_second=1,
        results="r",
        **counts,
        **nothing,
    )  # type: ignore[arg-type]
    body = summary.model_dump_json().encode()
    store.put(join_uri(output, summary_key(run_id)), body, "application/json")


def test_the_command_takes_the_newest_run_but_no_retry(
    store: Store, output: str, run: list[Record], tmp_path: Path
) -> None:
    """A retry's rows are only those that failed. How it went is the exit code, for a script."""
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    leave_summary(store, output, RUN, "restyle-catalog", moment)
    leave_summary(store, output, "an-old-one", "restyle-catalog", moment - timedelta(1))
    leave_summary(store, output, "a-retry", "retry-failed", moment + timedelta(1))
    ended = ace_here("pictures", output, str(tmp_path / "to"))
    assert ended.returncode == 0, ended.stderr
    assert "run run-1: 4 pictures written, 0 there before, of 4 rows" in ended.stdout
    assert files(tmp_path / "to") == NAMED
    (tmp_path / "to" / "a.png").write_bytes(b"my own")
    ended = ace_here("pictures", output, str(tmp_path / "to"), "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["without"] == {"name_taken": 1}
    assert ace_here("pictures", output, str(tmp_path / "to"), "--overwrite").returncode == 0
    none = ace_here("pictures", output, str(tmp_path / "to"), "--run", "run-9")
    assert (none.returncode, "run: accepted: a run with results" in none.stderr) == (2, True)


def test_make_get_with_a_run_copies_its_pictures(
    store: Store,
    output: str,
    run: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The store of the tests stands where the local stack's would."""
    stack = SimpleNamespace(running=lambda _: nullcontext(SimpleNamespace(env={})))
    monkeypatch.setattr(infra.transfer, "LocalStack", stack)

    def transfer(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments])
        ended = infra.transfer.main(), capsys.readouterr()
        return ended[0], ended[1].out + ended[1].err

    made = processes.run(["make", "-n", "get", f"FROM={output}", "RUN=run-1", "TO=to"]).stdout
    assert f'-m infra.transfer "{output}" "to" --run "run-1"' in made
    status, printed = transfer(output, str(tmp_path / "to"), "--run", RUN)
    assert (status, "4 pictures written" in printed) == (0, True)
    assert files(tmp_path / "to") == NAMED
    (tmp_path / "to" / "a.png").write_bytes(b"my own")
    status, printed = transfer(output, str(tmp_path / "to"), "--run", RUN)
    assert (status, "1 row without a file: name_taken; for example row a" in printed) == (1, True)
    status, printed = transfer(str(tmp_path), output, "--run", RUN)
    assert (status, "RUN: accepted with FROM an output on s3://" in printed) == (1, True)


def test_ctrl_c_is_reported_and_leaves_no_half_a_file(
    store: Store, output: str, run: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(take_out, "read_picture", stop)
        ended = ace_here("pictures", output, str(tmp_path / "to"), "--run", RUN)
    assert (ended.returncode, "run the same command again" in ended.stderr) == (130, True)
    assert files(tmp_path / "to") == {}
    assert ace_here("pictures", output, str(tmp_path / "to"), "--run", RUN).returncode == 0
    assert files(tmp_path / "to") == NAMED
