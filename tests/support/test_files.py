"""Files are absent or complete, on the disk, and readable to whom the umask allows."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

import dlnflow as dln
from dlnflow._support.files import atomic_path, write_json


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_contents_are_on_the_disk_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    path.write_text("old")

    def fsync(handle):
        seen.append((os.pread(handle, 9, 0), path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert seen == [(b"new", "old")] and path.read_text() == "new"


def test_a_failed_writer_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_json(path, 1)
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "1\n" and os.listdir(path.parent) == ["a.json"]


def test_temporary_names_are_hidden_and_keep_the_suffix(tmp_path):
    with atomic_path(tmp_path / "a.b.png") as temporary:
        assert temporary.suffix == ".png" and temporary.name.startswith(".a.b.")
        assert temporary.parent == tmp_path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_devices_and_pipes_are_not_replaced(tmp_path):
    """As root, a file took the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json is a device or a pipe"):
        write_json(tmp_path / "pipe.json", 1)
    assert (tmp_path / "pipe.json").is_fifo() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("there", [True, False], ids=["a file", "dangling"])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    target, between = tmp_path / "data" / "kept", tmp_path / "between"
    if there:
        target.parent.mkdir()
        target.write_text("old")
    link = tmp_path / "links" / "a.json"
    link.parent.mkdir()
    between.symlink_to(os.path.join("data", "kept"))
    link.symlink_to(os.path.join("..", "between"))
    with pytest.raises(RuntimeError), atomic_path(link) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".json"
        raise RuntimeError
    assert target.exists() == there
    write_json(link, 1)
    assert link.is_symlink() and between.is_symlink() and not target.is_symlink()
    assert link.read_text() == target.read_text() == "1\n"
    assert os.listdir(target.parent) == ["kept"] and os.listdir(link.parent) == ["a.json"]


def test_a_result_is_saved_through_a_link(tmp_path):
    run = dln.Run(dln.semantic_hierarchy(levels=2), optimizer="flow")
    found = dln.influence.analytic(run, [5])
    (tmp_path / "link.nc").symlink_to(tmp_path / "kept.nc")
    dln.save(found, tmp_path / "link.nc")
    assert (tmp_path / "link.nc").is_symlink()
    assert dln.load(tmp_path / "kept.nc").identical(dln.load(tmp_path / "link.nc"))


def test_a_link_to_itself_is_refused(tmp_path):
    link = tmp_path / "loop.json"
    link.symlink_to(link)
    with pytest.raises(ValueError, match=r"loop\.json is a link that leads back to itself"):
        write_json(link, 1)
    assert link.is_symlink() and os.listdir(tmp_path) == ["loop.json"]


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    write_json(tmp_path / "a.json", {"a": np.int64(3), "b": [np.float32(0.5), np.bool_(True)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 3, "b": [0.5, True]}
    with pytest.raises(TypeError, match=r"set .* cannot be written as JSON"):
        write_json(tmp_path / "new" / "a.json", {1})
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["there", "there/", "link", "there/..", ".", "", "/"])
def test_a_folder_is_not_taken_for_a_file(tmp_path, monkeypatch, name):
    """It was found by the rename after the work, which named the temporary file."""
    (tmp_path / "there" / "kept").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{Path(name)} is a folder; give the name of a file"):
        with atomic_path(name):
            pytest.fail("began to work")
    assert sorted(os.listdir()) == ["link", "there"] and os.listdir("there") == ["kept"]


def test_a_file_has_no_files_in_it(tmp_path):
    (tmp_path / "a").write_text("kept")
    with pytest.raises(ValueError, match=r"b/c\.json cannot be made: .*/a is a file"):
        write_json(tmp_path / "a" / "b" / "c.json", 1)
    assert (tmp_path / "a").read_text() == "kept"


def test_what_cannot_be_made_is_named_and_not_a_temporary_name(tmp_path, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(PermissionError) as caught:
        write_json(tmp_path / "a.json", 1)
    assert caught.value.filename == str(tmp_path / "a.json")
    assert "where files can be made" in caught.value.__notes__[0]


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    write_json(path, 1)
    assert path.read_text() == "1\n"
    with pytest.raises(OSError, match="n" * 251) as caught:
        write_json(tmp_path / ("n" * 251 + ".json"), 1)
    assert caught.value.errno == errno.ENAMETOOLONG and os.listdir(tmp_path) == [path.name]
