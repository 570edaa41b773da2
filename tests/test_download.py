"""Weights from a URL: the file that its hash belongs to, or none."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import torch

from model.deeplab_multi import DeeplabMulti
from model.download import cached_file, download
from model.weights import load_weights
from tests.conftest import TRAINING, one_line_error
from utils.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """torch's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "cache" / "hub" / "checkpoints"


@pytest.fixture
def site(tmp_path):
    """A folder and the address under which a server on this machine hands out what lies in it."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def put(folder: Path, name: str, content: bytes = b"weights") -> str:
    """A file on the server; its hash."""
    (folder / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*")) if cache.exists() else []


def test_a_file_with_the_right_hash_is_kept_and_not_fetched_again(site, cache, caplog):
    folder, address = site
    digest = put(folder, "net.pth")
    path = download(f"{address}/net.pth#sha256={digest.upper()}")
    assert path.read_bytes() == b"weights" and path.parent == cache
    (folder / "net.pth").unlink()  # from now on only the cache has it
    assert download(f"{address}/net.pth#sha256={digest}") == path
    assert "Unverified" not in caplog.text


def test_a_file_with_another_hash_is_refused_and_nothing_is_left(site, cache):
    folder, address = site
    digest = put(folder, "net.pth")
    with pytest.raises(UserError, match=f"{digest}.*was not kept"):
        download(f"{address}/net.pth#sha256={'0' * 64}")
    assert left(cache) == []


def test_the_hash_in_a_name_counts_as_torch_hub_has_it(site, cache, caplog):
    folder, address = site
    digest = hashlib.sha256(b"weights").hexdigest()
    put(folder, f"net-{digest[:8]}.pth")
    assert download(f"{address}/net-{digest[:8]}.pth").name == f"net-{digest[:8]}.pth"
    put(folder, "net-0123456a.pth")
    with pytest.raises(UserError, match="not 0123456a"):
        download(f"{address}/net-0123456a.pth")
    assert left(cache) == [f"net-{digest[:8]}.pth"] and "Unverified" not in caplog.text


def test_a_date_in_a_name_is_no_hash(site, cache, caplog):
    folder, address = site
    put(folder, "GTA5-20240101.pth")
    assert download(f"{address}/GTA5-20240101.pth").read_bytes() == b"weights"
    assert "Unverified" in caplog.text


def test_a_hash_behind_the_url_overrules_the_name(site, cache):
    folder, address = site
    digest = put(folder, "net-abcdef01.pth")
    assert download(f"{address}/net-abcdef01.pth#sha256={digest}").read_bytes() == b"weights"


def test_without_a_hash_a_line_says_which_one_to_write(site, cache, caplog):
    folder, address = site
    digest = put(folder, "net.pth")
    download(f"{address}/net.pth")
    assert f"Unverified: nobody said what {address}/net.pth must hold" in caplog.text
    assert f"#sha256={digest}" in caplog.text


def test_a_file_that_was_changed_in_the_cache_is_refused(site, cache):
    folder, address = site
    url = f"{address}/net.pth#sha256={put(folder, 'net.pth')}"
    download(url).write_bytes(b"others")
    with pytest.raises(UserError, match="remove it to download it again"):
        download(url)


def test_files_of_one_name_from_two_addresses_do_not_meet(cache):
    one, two = (cached_file(f"https://example.org/{place}/net.pth") for place in "ab")
    assert one != two and one.parent == two.parent == cache


@pytest.mark.parametrize(
    "name", ["../../../net.pth", "a/%2e%2e%2f%2e%2e%2fnet.pth", "..%5C..%5Cnet.pth", ".."]
)
def test_names_cannot_leave_the_cache(name, cache):
    assert cached_file(f"https://example.org/{name}").parent == cache


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=" + "0" * 64, "x", "sha256=" + "g" * 64])
def test_a_hash_that_is_none_is_refused_before_anything_is_fetched(fragment, site, cache):
    folder, address = site
    put(folder, "net.pth")
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        download(f"{address}/net.pth#{fragment}")
    assert left(cache) == []


def test_a_network_is_loaded_from_its_url(site, cache, tmp_path):
    folder, address = site
    torch.manual_seed(0)
    network = DeeplabMulti(19, use_se=True, norm_style="gn", arch="mini")
    torch.save(network.state_dict(), folder / "GTA5_4.pth")
    digest = hashlib.sha256((folder / "GTA5_4.pth").read_bytes()).hexdigest()
    other = DeeplabMulti(19, use_se=True, norm_style="gn", arch="mini")
    load_weights(other, f"{address}/GTA5_4.pth#sha256={digest}")
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_what_is_no_checkpoint_is_taken_out_of_the_cache(site, cache, world, run_main):
    folder, address = site
    put(folder, "net.pth", b"<html>404</html>")
    result = run_main("train_ms", *TRAINING, "--restore-from", f"{address}/net.pth")
    assert "not a checkpoint of tensors" in one_line_error(result, f"{address}/net.pth")
    assert left(cache) == []


def test_what_lay_in_the_cache_before_stays_there(site, cache, world, run_main):
    folder, address = site
    put(folder, "net.pth", b"<html>404</html>")
    path = download(f"{address}/net.pth")
    result = run_main("train_ms", *TRAINING, "--restore-from", f"{address}/net.pth")
    one_line_error(result, "not a checkpoint of tensors")
    assert path.read_bytes() == b"<html>404</html>"


def test_no_network_is_one_line_that_says_where_to_put_the_file(cache, world, run_main):
    url = "http://127.0.0.1:9/net.pth"  # nobody listens there
    line = one_line_error(run_main("train_ms", *TRAINING, "--restore-from", url), url, "cannot download")
    assert str(cached_file(url)) in line
