"""The server without a browser: its queue, who it lets in, and that it answers while it works."""

import json
import re
import threading
import time

import httpx
import psutil
import pytest

from diffwave_sde.cli import demo, main
from diffwave_sde.demo.server import SESSIONS, Server

SLOW = {"sampler": "DDIM", "steps": 200, "seed": 1}
FAST = {"sampler": "DDIM", "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        client.endpoints = client.get("/demo/start").json()["endpoints"]
        yield client


def join(client, name, data, session):
    body = {"data": data, "fn_index": client.endpoints[name], "session_hash": session}
    return client.post("/gradio_api/queue/join", json=body).json()["event_id"]


def messages(client, session):
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def test_a_second_user_is_told_their_place_and_a_closed_tab_frees_it(client):
    join(client, "generate", [["kick"] * 4, [0, 1, 2, 3], SLOW], "first")
    first = messages(client, "first")
    while next(first)["msg"] != "process_generating":
        pass
    seen, done = [], threading.Event()

    def second():
        join(client, "generate", [["kick"], [0], FAST], "second")
        for message in messages(client, "second"):
            seen.append(message)
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.5)
    assert [message["msg"] for message in seen] == ["estimation"]
    assert seen[0]["rank"] == 0
    began = time.perf_counter()
    first.close()  # as a tab that is closed
    assert done.wait(10)
    assert time.perf_counter() - began < 5  # the first would have taken far longer
    thread.join()
    assert len(seen[-2]["output"]["data"][0]["sounds"]) == 1


def test_it_answers_while_it_generates(client):
    join(client, "generate", [["kick"] * 4, [0, 1, 2, 3], SLOW], "busy")
    running = messages(client, "busy")
    while next(running)["msg"] != "process_generating":
        pass
    took = []
    with httpx.Client(base_url=client.base_url, trust_env=False) as other:
        for _ in range(20):
            began = time.perf_counter()
            assert other.get("/page/style.css").status_code == 200
            took.append(time.perf_counter() - began)
    assert next(running)["msg"] == "process_generating"  # it was at work all the time
    running.close()
    assert sorted(took)[10] < 0.1


def test_memory_stays_flat(client):
    def once(i):
        join(client, "generate", [["kick"] * 2, [0, 1], FAST], f"memory{i}")
        assert any(message["msg"] == "process_completed" for message in messages(client, f"memory{i}"))

    for i in range(8):
        once(i)
    before = psutil.Process().memory_info().rss
    for i in range(40):
        once(100 + i)
    assert psutil.Process().memory_info().rss - before < 24 * 2**20  # 40 results are 12 MB as text, twice


def test_results_are_not_kept_for_ever(server, client):
    for i in range(SESSIONS + 6):
        join(client, "generate", [["kick"] * 17, [0], FAST], f"many{i}")  # which is refused at once
        assert any(message["msg"] == "process_completed" for message in messages(client, f"many{i}"))
    assert 0 < len(server.app.get_blocks().state_holder.session_data) <= SESSIONS + 1


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("generate", [["tuba"], [0], FAST], "tuba: choose of cymbal, kick, snare"),
        ("generate", [["kick"] * 17, list(range(17)), FAST], "1 to 16 sounds"),
        ("generate", [["kick"], [0], {"seed": -1}], "seed -1: choose 0 to"),
        ("generate", [["kick"], [0], {"steps": "many"}], "settings are"),
        ("vary", ["AAAA", "kick", 0.5, 0, FAST], "a sound is float32 samples|21000 finite samples"),
        ("vary", ["AAAAAA==", "kick", 0.5, 0, FAST], "21000 finite samples, not 1"),
    ],
)
def test_what_it_cannot_do_it_says_in_words(client, name, data, said):
    session = f"wrong{time.time_ns()}"
    join(client, name, data, session)
    ended = next(message for message in messages(client, session) if message["msg"] == "process_completed")
    assert not ended["success"]
    assert re.search(said, ended["output"]["error"])


def test_another_sites_name_is_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_too_large_a_body_is_refused_before_it_is_read(client):
    answer = client.post("/demo/upload?name=long.wav", content=bytes(33 * 2**20))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("long.wav: larger than 32 MB")


def test_the_password_is_asked_for_everywhere(server):
    guarded = Server(server.studio, server.start_kit, port=0, password="sesame")
    url = guarded.launch()
    try:
        for path in ("/", "/demo/start", "/page/app.js", "/gradio_api/info"):
            assert httpx.get(url + path[1:], trust_env=False).status_code == 401
            assert httpx.get(url + path[1:], auth=("me", "wrong"), trust_env=False).status_code == 401
        assert httpx.get(url, auth=("me", "sesame"), trust_env=False).status_code == 200
        assert httpx.get(url + "demo/start", auth=("me", "sesame"), trust_env=False).status_code == 200
    finally:
        guarded.close()


def test_a_port_that_is_taken_is_one_clear_line(server, capsys):
    port = server.url.rstrip("/").rpartition(":")[2]
    argv = ["--ckpt=drums", "--device=cpu", f"--port={port}", "--sampler=DDIM", "--sampler.steps=2"]
    with pytest.raises(SystemExit):
        main(["demo", *argv])
    assert f"diffwave-sde: --port {port}: cannot listen there on 127.0.0.1" in capsys.readouterr().err


def test_the_server_asks_nothing_of_other_machines(server, client):
    assert client.get("/").status_code == 200
    addresses = {address[0] for address in server.reached if isinstance(address, tuple)}
    assert addresses == {"127.0.0.1"}


def test_an_open_host_warns(capsys):
    argv = ["--ckpt=drums", "--device=cpu", "--host=0.0.0.0", "--sampler=DDIM", "--sampler.steps=2"]
    demo.prepare(demo.parser().parse_args(argv)).worker.close()
    assert "anybody, since there is no --password" in capsys.readouterr().err
