"""What the server answers, what it refuses, and what is damaged."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from PIL import Image

from foveal import UserError
from foveal.evidence import Detections
from foveal.results import gates as study_gates
from foveal.study import Study
from foveal.study.cell import RESULT
from foveal.view import server as view
from foveal.view import study as view_study
from views import client, explained, serving

# What is refused -----------------------------------------------------------------------------------------------------

NASTY = [
    *("/../plan.yaml", "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
    *("/etc/passwd", "/plan.yaml", "/results.json", "/cells", "/data.json", "/data/../plan.yaml", "/data/data.yaml"),
    *("/picture/../plan.yaml", "/picture/..%2f..%2fplan.yaml", "/picture/photo/../../plan.yaml", "/picture/photo//0"),
    *("/picture/photo/%2e%2e%2fplan.yaml", "/picture/photo/..%5c..%5cplan.yaml", "/picture/photo/%00"),
    *("/picture/photo/-1", "/picture/photo/0%00.png", "/picture/photo/+0", "/picture/photo/0x0", "/picture/photo/1e0"),
    *(
        "/picture/photo/٠",
        "/picture/photo/²",
        "/picture/photo/" + "9" * 5000,
        "/picture/photo/99",
        "/picture/photo/0/",
        "/picture/photo/",
    ),
    *("/picture/map/1/0", "/picture/map/1/..%2f..%2fplan.yaml", "/picture/map/0/0", "/picture/map/..%2f/0"),
    *("/picture/file:%2f%2f%2fetc%2fpasswd", "/picture/%2fetc%2fpasswd", "/data/%2fetc%2fpasswd", "/data/image/1/0/99"),
    *("/data/image/1/9/0", "/data/image/0/0/0", "/data/image/1/0", "/data/images/-1", "/data/images/1/../1/x"),
    *("/data/progress/..", "/report.html/..%2fplan.yaml", "/report.html/", "/%252e%252e%252fplan.yaml", "/view.py"),
    *("/static/../view.py", "/templates/view.html", "/.%00./plan.yaml", "/C:%5cwindows%5cwin.ini", "/data/_now"),
]


def test_no_path_leads_out_of_what_is_offered(small):
    with serving(small) as address:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for path in NASTY:
            # By hand: every client of comfort tidies such paths before it sends them.
            with socket.create_connection((host, int(port)), timeout=10) as line:
                line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda line=line: line.recv(65536), b""))
            status, _, body = answer.partition(b"\r\n\r\n")
            assert status.split()[1] in (b"404", b"400"), (path, status)
            assert len(body) < 100, (path, body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_but_reading_is_answered(template, method):
    asked = client(template)
    for path in ("/", "/data/progress", "/picture/photo/0", "/report.html"):
        assert asked.request(method, path).status_code == 405
    assert asked.head("/picture/photo/0").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "10.0.0.1"])
def test_other_names_than_this_machine_are_refused(template, host):
    asked = client(template)
    answer = asked.get("/data/progress", headers={"host": host})
    assert answer.status_code == 400
    assert "arms" not in answer.text
    for name in ("localhost", "127.0.0.1", "localhost:8123"):
        assert asked.get("/data/progress", headers={"host": name}).status_code == 200


def test_every_answer_carries_the_headers(small):
    (small / "cells").rename(small / "elsewhere")
    asked = client(small, raise_server_exceptions=False)
    answers = [asked.get(path) for path in ("/", "/view.js", "/view.css", "/data/progress", "/picture/photo/0", "/no")]
    answers += [asked.post("/"), asked.get("/", headers={"host": "evil.example"}), asked.get("/data/image/1/0/0")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(
            "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    policy = asked.get("/report.html").headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "script" not in policy[0]
    assert "sandbox" in policy[0]


def test_the_report_and_the_gates_it_leads_to_are_served_and_no_other_file(small):
    asked = client(small)
    gates = study_gates.gates_folder(small, "ema@neck")
    address = "/gates/ema%40neck/index.html"
    assert asked.get(address).status_code == 404
    explained(gates, ["0001.png"])
    (gates / "index.html").write_text("<p>gates")
    for path, text in ((address, "<p>gates"), ("/report.html", (small / "report.html").read_text())):
        answer = asked.get(path)
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-security-policy"] == view.PAGE_POLICY
    (gates / "other.html").write_text("other")
    others = ["plan.yaml", "results.json", "gates/ema@neck", "gates/ema@neck/other.html"]
    others += ["gates/ema@neck/manifest.json", "gates/baseline/index.html", "gates/x/%2e%2e/ema@neck/index.html"]
    for name in [*others, "%2e%2e/plan.yaml", "//plan.yaml"]:
        assert asked.get(f"/{name}").status_code == 404, name
    (gates / "index.html").unlink()
    (gates / "index.html").symlink_to("/etc/hostname")
    assert asked.get(address).status_code == 404


def test_links_out_of_the_folder_and_files_that_are_no_pictures_are_not_served(small, tmp_path):
    asked = client(small)
    assert asked.get("/data/progress").json()["page"] is True
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    picture = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(picture)
    (small / "report.html").unlink()
    (small / "report.html").symlink_to(secret)
    (small / "data/images/val/0000.png").unlink()
    (small / "data/images/val/0000.png").symlink_to(secret)
    gates = study_gates.gates_folder(small, "ema@neck")
    manifest = explained(gates, ["0001.png"])
    (gates / "pictures/link.png").symlink_to(picture)
    (gates / "pictures/note.png").write_text("secret")
    wanted = ("../../plan.yaml", str(picture), "pictures/link.png", "pictures/../../../x", "pictures/\0", 7, None, "")
    like = manifest["images"][0]["gates"][0]
    manifest["images"][0]["gates"] = [{**like, "picture": one} for one in (*wanted, "pictures/note.png")]
    (gates / "manifest.json").write_text(json.dumps(manifest))
    assert asked.get("/report.html").status_code == 404
    assert asked.get("/data/progress").json()["page"] is False
    maps = asked.get("/data/image/1/0/1").json()["maps"]
    assert [one["picture"] for one in maps[: len(wanted)]] == [None] * len(wanted)
    for path in (maps[len(wanted)]["picture"], "picture/photo/0"):
        answer = asked.get(f"/{path}")
        assert answer.status_code == 409
        assert answer.json()["message"].endswith("is no picture that a browser can show")
        assert "secret" not in answer.text
    gates.rename(tmp_path / "gates")
    gates.symlink_to(tmp_path / "gates")
    assert asked.get("/data/image/1/0/1").json()["maps"] == []
    assert asked.get("/picture/map/1/0").status_code == 404


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_folder_with_nothing_to_show_is_refused_at_the_start(tmp_path, small):
    with pytest.raises(UserError, match=r"neither plan.yaml nor manifest.json"):
        view.application(tmp_path)
    with pytest.raises(UserError, match=r"neither plan.yaml nor manifest.json"):
        view.application(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"kind": "expl')
    with pytest.raises(UserError, match=r"manifest.json cannot be read: JSONDecodeError"):
        view.application(tmp_path)
    shutil.rmtree(small / "data/images/val")
    with pytest.raises(UserError, match=r"data file .* cannot be used"):
        view.application(small)
    (small / "plan.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"the plan .* is not YAML"):
        view.application(small)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"images": 5},
        {"images": [5]},
        {"attentions": []},
        {"attentions": None},
        {"ablation": {"rows": 3}},
        {"images": [{"name": "a", "picture": None, "width": "wide", "height": 3}]},
        {"images": [{"name": "a", "picture": None, "width": float("nan"), "height": 3}]},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_named(tmp_path, changes):
    explained(tmp_path, ["a.jpg"])
    asked = client(tmp_path)
    explained(tmp_path, ["a.jpg"], **changes)
    answer = asked.get("/data/album")
    assert answer.status_code == 409
    assert answer.json()["message"].startswith(f"{tmp_path / 'manifest.json'} cannot be read: ")
    explained(tmp_path, ["a.jpg"])
    assert asked.get("/data/album").status_code == 200


def test_damaged_files_give_a_sentence_and_the_rest_is_shown(small):
    study = Study(small)
    asked = client(small)
    paths = {(cell.arm.name, cell.pair): study.path(cell) for cell in study.cells}
    broken = paths["ema@neck", 0] / "best.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    found = asked.get("/data/images/1").json()
    assert found["seeds"] == [1]
    assert found["notes"][0].startswith(f"cannot read detections from {broken}")
    assert asked.get("/data/image/1/0/0").json()["message"].startswith(f"cannot read detections from {broken}")
    assert asked.get("/data/image/1/1/0").status_code == 200

    values = vars(Detections.load(paths["ema@neck", 1] / "best.npz"))
    for changes in (
        {"image": values["image"] + 100},
        {"box": values["box"][:, :3]},
        {"true_label": values["true_label"][:-1]},
        {"confidence": values["confidence"] * np.nan},
        {"name": np.array("one")},
        {"image": values["image"].astype(float)},
    ):
        Detections(**{**values, **changes}).save(paths["ema@neck", 1] / "best.npz")
        os.utime(paths["ema@neck", 1] / "best.npz", ns=(time.time_ns(), time.time_ns()))
        answer = asked.get("/data/image/1/1/0")
        assert answer.status_code == 409, changes
        assert answer.json()["message"].endswith("best.npz holds no detections")

    (paths["A/A", 0] / RESULT).write_text('{"arm": ')
    (paths["A/A", 0] / "results.csv").write_bytes(b"\xff\x00\xfe" * 50)
    half = json.loads((paths["A/A", 1] / RESULT).read_text())
    (paths["A/A", 1] / RESULT).write_text(json.dumps({**half, "scores": {"map": "high"}, "seconds": None}))
    (small / "results.json").write_text((small / "results.json").read_text()[:3000])
    found = asked.get("/data/progress").json()
    states = {(cell["arm"], cell["seed"]): cell for cell in found["cells"]}
    for where in (("A/A", 0), ("A/A", 1)):
        assert states[where]["state"] == "failed"
        assert states[where]["reason"].startswith(f"files in {paths[where]} cannot be read: ")
    assert states["baseline", 0]["state"] == "finished"
    assert found["verdict"]["problem"].startswith(f"{small / 'results.json'} cannot be read: Unterminated string")
    (small / "results.json").write_text("{}")
    assert "KeyError" in asked.get("/data/progress").json()["verdict"]["problem"]


def test_a_plan_that_breaks_meanwhile_gives_a_sentence_until_it_is_whole(small):
    asked = client(small)
    plan = (small / "plan.yaml").read_text()
    (small / "plan.yaml").unlink()
    assert "it has no plan.yaml" in asked.get("/data/progress").json()["message"]
    (small / "plan.yaml").write_text("arms: {")
    answer = asked.get("/data/progress")
    assert answer.status_code == 409
    assert answer.json()["hint"] == "write for example 'model: yolo11n.pt'"
    (small / "plan.yaml").write_text(plan)
    assert asked.get("/data/progress").status_code == 200


def test_a_fault_of_ours_is_one_line_and_the_server_goes_on(template, monkeypatch, capsys):
    asked = client(template, raise_server_exceptions=False)
    with monkeypatch.context() as patch:
        patch.setattr(view_study.Watched, "_progress", lambda *_: 1 / 0)
        answer = asked.get("/data/progress")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert capsys.readouterr().err == "/data/progress: ZeroDivisionError: division by zero\n"
    assert asked.get("/data/progress").status_code == 200


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_its_address_and_ctrl_c_is_no_failure(tmp_path):
    explained(tmp_path, ["a.jpg"])
    code = "import typer; from foveal.cli.view import view; app = typer.Typer(); app.command()(view); app()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            address = running.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), running.stderr.read()
            host, port = address.removeprefix("http://").rstrip("/").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as line:
                line.sendall(f"GET /data/album HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert line.recv(100).startswith(b"HTTP/1.1 200")
                with pytest.raises(UserError, match=f"cannot listen on port {port}: Address already in use"):
                    view.serve(tmp_path, int(port), print)
                running.send_signal(signal.SIGINT)  # while a browser still holds a line
                said = running.communicate(timeout=20)
        finally:
            running.kill()
    assert (running.returncode, *said) == (0, "", "")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    from foveal.cli import view as cli_view

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(UserError, match="the page needs uvicorn, which is not installed") as refusal:
        cli_view.view(tmp_path)
    assert refusal.value.hint == "pip install 'foveal[view]'"


def test_the_page_names_no_other_place():
    for path in view.STATIC.glob("view.*"):
        assert set(re.findall(r"\w+://[^\s\"']+", path.read_text())) <= {"http://www.w3.org/2000/svg"}, path
