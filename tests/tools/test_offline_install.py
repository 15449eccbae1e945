"""A real installation with no network, by another user, and the first video made there under the unit's restrictions.

Slow, needs root and a Python that others may run: `make test-offline-install`. EDGEREEL_TEST_OFFLINE names a packed folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.full, pytest.mark.offline_install]

USER = "61234"
CLIENT = """
import json, socket, sys, time, urllib.request as web
try:
    socket.create_connection(("192.0.2.1", 80), 3)
except OSError as error:
    print("network:", error.strerror)
url = "http://127.0.0.1:8765"
for _ in range(600):
    try:
        web.urlopen(url + "/health"); break
    except OSError:
        time.sleep(0.1)
body = json.dumps({"prompt": "a red ball bounces over the ocean"}).encode()
ask = web.Request(url + "/v1/videos", body, {"Content-Type": "application/json"})
video = json.load(web.urlopen(ask))
while video["status"] not in ("completed", "failed"):
    time.sleep(0.1)
    video = json.load(web.urlopen(f"{url}/v1/videos/{video['id']}"))
print("video:", video["status"], video["error"])
content = web.urlopen(f"{url}/v1/videos/{video['id']}/content").read()
import io, av
print("pictures:", sum(1 for _ in av.open(io.BytesIO(content)).decode(video=0)), video["num_frames"])
"""
RUN = """
set -eu
prefix=$1 state=$2 outside=$3
"$prefix/bin/edgereel" serve --print-unit > /dev/null
touch "$outside/x" 2> /dev/null && echo "written outside" || echo "read only"
ls /root > /dev/null 2>&1 && echo "home is seen" || echo "no home"
grep -q "^NoNewPrivs:.1" /proc/self/status && grep -q "^CapBnd:.0*$" /proc/self/status && echo "no privileges"
"$prefix/bin/edgereel" serve --engine cpu & server=$!
"$prefix/bin/python" -c "$CLIENT"
kill $server; wait $server && echo "ended: 0"
"""
RESTRICTED = f"""
set -eu
prefix=$1 state=$2 outside=$3
ip link set lo up
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=000 none /root
mount --bind "$state" "$state"
mount -o remount,bind,ro /
umask 077
exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \\
    env -i PATH=/usr/bin:/bin EDGEREEL_HOME="$state" EDGEREEL_CACHE="$state/cache" CLIENT="$CLIENT" \\
    sh -c "$RUN" run "$prefix" "$state" "$outside"
"""


def have_what_it_takes():
    tools = ("unshare", "setpriv", "ip", "mount", "python3", "sha256sum")
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in tools):
        return False
    tried = subprocess.run(["unshare", "--net", "--mount", "--propagation", "private", "true"], capture_output=True)
    return tried.returncode == 0


@pytest.fixture(scope="module")
def place():
    """A folder that other users may look into, which pytest's is not."""
    if not have_what_it_takes():
        pytest.skip("needs root, unshare, setpriv and ip")
    folder = Path(tempfile.mkdtemp(prefix="edgereel-offline-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def packed(place):
    if given := os.environ.get("EDGEREEL_TEST_OFFLINE"):
        return Path(given)
    found = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        pytest.skip("the system's Python makes no environments")
    command = [sys.executable, "-m", "edgereel.tools.offline", str(place / "packed"), "--python", found.stdout.strip()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "packed"


def without_network(*command, **options):
    apart = ["unshare", "--net", "--mount", "--propagation", "private", *map(str, command)]
    return subprocess.run(apart, capture_output=True, text=True, **options)


def install(packed, prefix):
    """As another user, with the system's Python and nothing else in its environment."""
    prefix.parent.mkdir(exist_ok=True)
    shutil.chown(prefix.parent, int(USER), int(USER))
    user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "env", "-i", "PATH=/usr/bin:/bin"]
    return without_network(*user, "sh", packed / "install.sh", "--prefix", prefix, "--no-service")


def test_the_first_video_is_made_where_there_is_no_network(place, packed):
    done = install(packed, place / "opt" / "edgereel")
    assert done.returncode == 0, done.stderr
    state = place / "state"
    state.mkdir()
    shutil.chown(state, int(USER), int(USER))
    environment = {**os.environ, "CLIENT": CLIENT, "RUN": RUN}
    arguments = [place / "opt" / "edgereel", state, place / "opt"]
    done = without_network("sh", "-c", RESTRICTED, "run", *arguments, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "read only",
        "no home",
        "no privileges",
        "network: Network is unreachable",
        "video: completed None",
        "pictures: 17 17",
        "ended: 0",
    ]
    assert (state / "jobs.db").stat().st_uid == int(USER)


def test_it_is_installed_again_over_itself(place, packed):
    done = install(packed, place / "opt" / "edgereel")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (place / "opt").iterdir()) == ["edgereel"]


@pytest.mark.parametrize("harm", ["damaged", "added", "missing"])
def test_a_folder_that_is_not_as_it_was_packed_is_refused(place, packed, harm):
    copy = place / harm
    shutil.copytree(packed, copy, copy_function=os.link)
    wheel = next((copy / "wheels").glob("rich-*.whl"))
    if harm == "added":
        (copy / "wheels" / "evil-1.0-py3-none-any.whl").write_bytes(b"x")
    else:
        content = wheel.read_bytes()
        wheel.unlink()
        if harm == "damaged":
            wheel.write_bytes(content[:-1] + b"x")
    done = install(copy, place / f"opt-{harm}" / "edgereel")
    assert done.returncode == 1
    assert "copy the folder again" in done.stderr
    assert list((place / f"opt-{harm}").iterdir()) == []
