"""Bundles: what goes in comes out, and nothing that was changed is believed."""

import errno
import io
import json
import os
import shutil
import stat
import zipfile
from contextlib import closing

import jsonschema
import pytest
from blake3 import blake3
from bundles import contents, engine, listed, packed, plan, rezipped, with_manifest
from command import trtforge
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trtforge import demo
from trtforge.api import run
from trtforge.bundle import copying
from trtforge.bundle.contents import of_runs
from trtforge.bundle.copying import CHUNK, WriteBehind, copy_and_hash
from trtforge.bundle.manifest import MANIFEST, SIGNATURE, manifest_schema, read_manifest
from trtforge.bundle.storage import Bundle
from trtforge.bundle.writer import write
from trtforge.errors import BundleError, EnvironmentLacks, RequestError

FORMS = pytest.mark.parametrize("name", ["b", "b.zip"])


@FORMS
def test_what_goes_in_comes_out(name, tmp_path):
    bundle = Bundle(packed(tmp_path, name))
    entry = bundle.manifest.engines[0]
    assert bundle.read(entry.file) == plan()
    assert entry.targets == ("sm_86", "sm_89")
    assert bundle.manifest.model.inputs[0].shape == "batchx4"
    bundle.extract(bundle.manifest.model.file, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "run" / "model.onnx").read_bytes()


@FORMS
def test_the_manifest_keeps_its_schema(name, tmp_path):
    bundle = Bundle(packed(tmp_path, name))
    jsonschema.validate(json.loads(bundle.manifest.to_json()), manifest_schema())
    assert read_manifest(bundle.manifest.to_json()) == bundle.manifest


def test_the_hashes_are_those_of_b3sum(tmp_path):
    place = packed(tmp_path)
    for entry in Bundle(place).manifest.files:
        assert blake3((place / entry.path).read_bytes()).hexdigest() == entry.blake3


def test_entries_of_a_zip_are_stored(tmp_path):
    with zipfile.ZipFile(packed(tmp_path, "b.zip")) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_equal_engines_are_stored_once(tmp_path):
    run_folder = tmp_path / "run"
    same = [engine(run_folder, name, data=plan()) for name in ("a", "b")]
    other = engine(run_folder, "c", data=plan(payload=b"other kernels"))
    manifest = write(contents(run_folder, *same, other), tmp_path / "b")
    files = [entry.file for entry in manifest.engines]
    assert files[0] == files[1] != files[2]
    assert len(list((tmp_path / "b" / "engines").iterdir())) == 2


def test_the_onnx_model_can_be_left_out(tmp_path):
    manifest = write(contents(tmp_path / "run", with_model=False), tmp_path / "b")
    assert manifest.model.file is None
    assert not (tmp_path / "b" / "model").exists()


def test_licenses_go_along(tmp_path):
    (tmp_path / "LICENSE.txt").write_text("MIT")
    more = {"licenses": (tmp_path / "LICENSE.txt",)}
    manifest = write(contents(tmp_path / "run", **more), tmp_path / "b")
    assert Bundle(tmp_path / "b").read(manifest.licenses[0]) == b"MIT"


@FORMS
@example(position=0.009765625, flip=11)  # zipfile gives EOFError for it
@example(position=0.9494324356177489, flip=32)  # NotImplementedError
@example(position=0.9494324356177489, flip=1)  # RuntimeError: encrypted
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_any_changed_byte_is_noticed_or_changes_nothing(name, position, flip, tmp_path_factory):
    """A zip file has bytes that mean nothing (times, flags); no content may differ."""
    folder = tmp_path_factory.mktemp("t")
    place = packed(folder, name)
    before = {path: Bundle(place).read(path) for path in Bundle(place).manifest.by_path}
    files = sorted(path for path in [place, *place.rglob("*")] if path.is_file())
    target = files[int(position * len(files))]
    data = bytearray(target.read_bytes())
    data[int(position * len(data))] ^= flip
    target.write_bytes(data)
    try:
        bundle = Bundle(place)
    except RequestError:
        return
    assert {path: bundle.read(path) for path in before} == before


@FORMS
@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.7, 0.99])
def test_a_bundle_that_is_cut_short_is_refused(name, kept, tmp_path):
    place = packed(tmp_path, name)
    target = place / Bundle(place).manifest.engines[0].file if name == "b" else place
    data = target.read_bytes()
    target.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(BundleError, match=r"cut short|no zip file"):
        Bundle(place)


def test_a_newer_format_is_refused_with_the_way_out(tmp_path):
    place = packed(tmp_path)
    newer = with_manifest((place / MANIFEST).read_bytes(), lambda data: data.update(schema=2))
    (place / MANIFEST).write_bytes(newer)
    with pytest.raises(BundleError, match="format 2") as caught:
        Bundle(place)
    assert "later" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no JSON"),
        (b"[1]", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": "x"}', "damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(text, message, tmp_path):
    place = packed(tmp_path)
    (place / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=message):
        Bundle(place)


def test_an_unknown_key_of_the_manifest_is_refused(tmp_path):
    place = packed(tmp_path)
    text = with_manifest((place / MANIFEST).read_bytes(), lambda data: data.update(extra=1))
    (place / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match="extra"):
        Bundle(place)


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle(tmp_path / "folder")
    with pytest.raises(BundleError, match="no zip file"):
        Bundle(tmp_path / "file")
    with pytest.raises(RequestError, match="no such bundle"):
        Bundle(tmp_path / "nothing")


def test_a_file_that_nobody_listed_is_refused(tmp_path):
    place = packed(tmp_path)
    (place / "engines" / "more.so").write_bytes(b"code")
    with pytest.raises(BundleError, match="in no list"):
        Bundle(place)


def test_a_missing_file_is_named(tmp_path):
    place = packed(tmp_path)
    (place / "model" / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx' is missing"):
        Bundle(place)


@pytest.mark.parametrize("at", ["engines", "model/model.onnx", "manifest.json"])
def test_links_are_refused(at, tmp_path):
    place = packed(tmp_path)
    target = tmp_path / "elsewhere"
    (place / at).rename(target)
    (place / at).symlink_to(target)
    with pytest.raises(BundleError, match="a link"):
        Bundle(place)


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    place = packed(tmp_path)
    os.mkfifo(place / "engines" / "pipe")
    with pytest.raises(BundleError, match="special file"):
        Bundle(place)


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "/etc/passwd",
        "a/../../b",
        "a\\..\\b",
        "C:evil",
        "con",
        "model/./x",
        ".hidden",
        "ü",
    ],
)
def test_paths_that_would_escape_are_refused(path, tmp_path):
    def change(archive, files):
        files[path] = b"evil"
        files[MANIFEST] = with_manifest(
            files[MANIFEST], lambda data: data["files"].append(listed(path, b"evil"))
        )

    place = rezipped(packed(tmp_path, "b.zip"), tmp_path / "evil.zip", change)
    with pytest.raises(BundleError, match="not plain"):
        Bundle(place)


def test_a_link_in_a_zip_file_is_refused(tmp_path):
    def change(archive, files):
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    place = rezipped(packed(tmp_path, "b.zip"), tmp_path / "evil.zip", change)
    with pytest.raises(BundleError, match="'link' is a link"):
        Bundle(place)


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path):
    def change(archive, files):
        archive.writestr("bomb", bytes(50 * 2**20), zipfile.ZIP_DEFLATED)

    place = rezipped(packed(tmp_path, "b.zip"), tmp_path / "evil.zip", change)
    assert place.stat().st_size < 2**20
    with pytest.raises(BundleError, match="'bomb' is compressed"):
        Bundle(place)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """Overlapping entries: a small file that claims to hold much."""
    place = tmp_path / "evil.zip"
    data = bytes(2**16)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("a", data)
        first = archive.infolist()[0]
        for number in range(40):
            twin = zipfile.ZipInfo(f"a{number}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = len(data)
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    with pytest.raises(BundleError, match="larger than the file"):
        Bundle(place)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    def change(archive, files):
        archive.writestr("model/model.onnx", b"evil")

    place = packed(tmp_path, "b.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezipped(place, tmp_path / "evil.zip", change)
    with pytest.raises(BundleError, match="twice"):
        Bundle(tmp_path / "evil.zip")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    place = packed(tmp_path)
    monkeypatch.setattr("trtforge.bundle.storage.MAX_FILES", 2)
    with pytest.raises(BundleError, match="3 files"):
        Bundle(place)


def test_content_that_changes_after_the_check_is_not_handed_out(tmp_path):
    place = packed(tmp_path)
    bundle = Bundle(place)
    file = bundle.manifest.engines[0].file
    (place / file).write_bytes(plan(payload=b"exchanged"))
    with pytest.raises(BundleError, match="not what the manifest says"):
        bundle.read(file)
    with pytest.raises(BundleError, match="not what the manifest says"):
        bundle.extract(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Signatures.


@pytest.fixture
def keys(tmp_path):
    """Return a private and a public key, as openssl writes them."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def make(name):
        key = Ed25519PrivateKey.generate()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        form = (s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        private.write_bytes(key.private_bytes(*form))
        subject = s.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, subject))
        return private, public

    return make


@FORMS
def test_a_signed_bundle_opens_with_its_key_only(name, keys, tmp_path):
    private, public = keys("mine")
    _, other = keys("other")
    place = packed(tmp_path, name, key=private)
    assert len(Bundle(place, key=public).signed_by) == 64
    assert "--key" in Bundle(place).signed_by
    with pytest.raises(BundleError, match="not one of the key"):
        Bundle(place, key=other)


def test_an_unsigned_bundle_is_refused_where_a_key_is_asked_for(keys, tmp_path):
    _, public = keys("mine")
    with pytest.raises(BundleError, match="not signed"):
        Bundle(packed(tmp_path), key=public)


def test_a_signed_manifest_cannot_be_edited(keys, tmp_path):
    private, public = keys("mine")
    place = packed(tmp_path, key=private)
    text = (place / MANIFEST).read_bytes()
    (place / MANIFEST).write_bytes(text.replace(b"sm_86", b"sm_90"))
    with pytest.raises(BundleError, match="not one of the key"):
        Bundle(place, key=public)


@pytest.mark.parametrize("seal", [b"", b"{}", b'{"signature": "zz"}', b'{"signature": 5}'])
def test_a_damaged_signature_is_refused(seal, keys, tmp_path):
    private, public = keys("mine")
    place = packed(tmp_path, key=private)
    (place / SIGNATURE).write_bytes(seal)
    with pytest.raises(BundleError, match="not one of the key"):
        Bundle(place, key=public)


def test_a_file_without_a_key_is_a_wrong_request(tmp_path):
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(RequestError, match="holds no key"):
        packed(tmp_path, key=tmp_path / "no.pem")
    assert not (tmp_path / "b").exists()


# Copying.


class WriteOnly(io.BytesIO):
    """As an entry of a zip file is."""

    def fileno(self):
        raise io.UnsupportedOperation

    def readable(self):
        return False


@pytest.mark.parametrize("size", [0, 1, 4095, 5_000_000, 2 * CHUNK, 2 * CHUNK + 1])
def test_a_copy_is_the_same_and_its_hash_right(size, tmp_path):
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    expected = (size, blake3(data).hexdigest())
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("x+b") as target:
        assert copy_and_hash(source, target) == expected
    assert (tmp_path / "b").read_bytes() == data
    with (tmp_path / "a").open("rb") as source:
        target = WriteOnly()
        assert copy_and_hash(source, target) == expected
        assert target.getvalue() == data


def test_file_systems_that_do_not_copy_by_themselves(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    data = os.urandom(CHUNK + 5)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("x+b") as target:
        assert copy_and_hash(source, target) == (len(data), blake3(data).hexdigest())
    assert (tmp_path / "b").read_bytes() == data


def test_a_source_that_becomes_shorter_ends_the_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    (tmp_path / "a").write_bytes(b"content")
    with (
        (tmp_path / "a").open("rb") as source,
        (tmp_path / "b").open("x+b") as target,
        pytest.raises(OSError, match="became shorter"),
    ):
        copy_and_hash(source, target)


def test_what_is_written_behind_arrives_and_may_be_written_again(tmp_path):
    pieces = [os.urandom(size) for size in (1, 0, 100_000, 7)]
    with closing(WriteBehind(tmp_path / "a")) as file:
        for piece in pieces:
            file.write(piece)
        file.seek(1)
        file.write(b"head")
        file.flush()
        assert file.tell() == 5
        assert (tmp_path / "a").stat().st_size == 100_008
    whole = b"".join(pieces)
    assert (tmp_path / "a").read_bytes() == whole[:1] + b"head" + whole[5:]


def test_a_write_that_fails_behind_is_raised(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    file = WriteBehind(tmp_path / "a")
    file.write(b"content")
    with pytest.raises(OSError, match="No space"):
        file.close()
    assert file.closed


# Writing: whole, or not at all.


@FORMS
def test_a_disk_that_fails_while_more_is_written_leaves_nothing(name, tmp_path, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copying, "_sync", broken)
    monkeypatch.setattr(copying, "_EARLY", 1)
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="Input/output error"):
        write(contents(tmp_path / "run"), out / name)
    assert list(out.iterdir()) == []


@FORMS
def test_an_existing_bundle_is_never_overwritten(name, tmp_path):
    place = packed(tmp_path, name)
    with pytest.raises(RequestError, match="exists already"):
        packed(tmp_path, name)
    Bundle(place)


@FORMS
def test_a_failure_leaves_nothing(name, tmp_path):
    missing = contents(tmp_path / "run", licenses=(tmp_path / "nowhere",))
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="license"):
        write(missing, out / name)
    assert list(out.iterdir()) == []


@FORMS
def test_a_full_disk_is_said_and_leaves_nothing(name, tmp_path, monkeypatch):
    def full(source, target):
        target.write(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trtforge.bundle.writer.copy_and_hash", full)
    out = tmp_path / "out"
    with pytest.raises(EnvironmentLacks, match="no space"):
        write(contents(tmp_path / "run"), out / name)
    assert list(out.iterdir()) == []


# The step, the command, and real engines.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a real run that built an engine."""
    folder = tmp_path_factory.mktemp("runs")
    os.environ["TRTFORGE_CACHE"] = str(folder / "cache")
    try:
        return run(demo.RECIPE, demo.MODEL, out=folder / "digits").folder
    finally:
        del os.environ["TRTFORGE_CACHE"]


def test_a_run_becomes_a_bundle_with_its_evidence(finished, tmp_path):
    manifest = write(of_runs([finished]), tmp_path / "b.zip")
    assert manifest.engines[0].targets == ("sm_80", "sm_86", "sm_89", "sm_120")
    assert manifest.engines[0].cuda == "13"
    assert manifest.engines[0].precision["int8"] > 0.99
    assert manifest.evidence["comparison"]["accuracy"]["final"] > 0.9
    steps = [
        name for stage in manifest.recipe["stages"] for step in stage["steps"] for name in step
    ]
    assert "tensorrt" in steps
    ranges = json.loads(Bundle(tmp_path / "b.zip").read("calibration/ranges.json"))
    assert ranges["samples"] > 0
    assert "image" in ranges["by_tensor"]


def test_damaged_ranges_of_a_run_are_refused(finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    (other / "calibration.json").write_text("{")
    with pytest.raises(RequestError, match="ranges of the run cannot be read"):
        of_runs([other])


def test_runs_of_different_models_do_not_mix(finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    report = other / "report.json"
    report.write_text(report.read_text().replace('"logits"', '"other"'))
    with pytest.raises(RequestError, match="another model"):
        of_runs([finished, other])


def test_the_step_packs_within_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stages:\n"
        "  - {name: build, steps: [fold-constants, tensorrt]}\n"
        "  - {name: ship, steps: [bundle: {file: digits.zip}]}\n"
    )
    shapes = {"image": "1x1x8x8"}
    options = {"out": tmp_path / "out", "shapes": shapes, "targets": ["sm_86"]}
    for resume in (False, True):
        run(recipe, demo.MODEL, resume=resume, **options)
        bundle = Bundle(tmp_path / "out" / "digits.zip")
        assert bundle.manifest.engines[0].targets == ("sm_86",)
        assert bundle.manifest.recipe["targets"] == ["sm_86"]
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(bundle.manifest.recipe))
    assert run(again, demo.MODEL, out=tmp_path / "again").engine.targets == ("sm_86",)


def test_the_command_packs_inspects_and_checks_signatures(finished, keys, tmp_path):
    private, public = keys("mine")
    out = tmp_path / "b.zip"
    done = trtforge("bundle", "pack", finished, "--out", out, "--sign", private)
    assert done.code == 0, done.err
    answer = trtforge("bundle", "inspect", out, "--key", public, "--json")
    assert answer.code == 0
    assert answer.json["manifest"]["model"]["name"] == "digits"
    shown = trtforge("bundle", "inspect", out)
    assert "every hash is right" in shown.out
    data = bytearray(out.read_bytes())
    data[5000] ^= 1
    out.write_bytes(data)
    refused = trtforge("bundle", "inspect", out)
    assert refused.code == 2
    assert "b.zip" in refused.err
