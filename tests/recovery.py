#!/usr/bin/env python3
"""A million entries over HTTP, kill -9, and how long it takes until the vault is ready again, is verified whole, and is restored from a
backup under a new name (G14).

    tests/recovery.py BINARY [ENTRIES]

Best with a release build; needs nothing but Python. Ends with 1 if anything is not intact; times are told, not judged."""
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

BATCH = 10_000


def submission(n):
    stamp = int(time.time() * 1000) << 80
    return json.dumps({
        "id": str(uuid.UUID(int=stamp | 7 << 76 | 2 << 62 | n)),
        "action": "update",
        "actor": {"id": f"u-{n % 2000}"},
        "patient": {"id": f"MRN-{n % 100_000}"},
        "record": {"type": "Condition", "id": f"c-{n}"},
        "reason": {"code": "TREAT", "change": "NEWDATA"},
        "changes": [{"field": "diagnosis", "old": "Hypertension", "new": f"value {n}"}],
    })


def timed(what, run):
    began = time.monotonic()
    result = run()
    print(f"{what}: {time.monotonic() - began:.2f} s", flush=True)
    return result


def main(binary, entries):
    with tempfile.TemporaryDirectory() as folder:
        place = lambda name: os.path.join(folder, name)
        with open(place("key"), "w") as key:
            key.write(os.urandom(32).hex())
        os.chmod(place("key"), 0o600)

        def phivault(*arguments):
            done = subprocess.run([binary, *arguments], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{arguments[0]}: {done.stdout}{done.stderr}")
            return done.stdout

        admin = phivault("init", "--dir", place("vault"), "--key-file", place("key")).strip()
        config = place("vault/phivault.toml")

        def serve():
            environment = dict(os.environ, PHIVAULT_SERVER__LISTEN="127.0.0.1:0", PHIVAULT_LIMITS__SUBMITS_PER_SECOND="0")
            log = open(place("log"), "a")
            command = [binary, "serve", "--config", config]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
            line = server.stdout.readline()
            return server, next(word for word in line.split() if word.startswith("http"))

        def post(url, token, path, body, kind="application/json"):
            headers = {"authorization": f"Bearer {token}", "content-type": kind}
            request = urllib.request.Request(url + path, body.encode(), headers)
            return json.load(urllib.request.urlopen(request, timeout=300))

        server, url = serve()
        token = post(url, admin, "/v1/tokens", json.dumps({"role": "submitter", "label": "app"}))["token"]

        def bring_in():
            for begin in range(0, entries, BATCH):
                lines = "\n".join(submission(n) for n in range(begin, min(begin + BATCH, entries)))
                answer = post(url, token, "/v1/entries/batch", lines, "application/x-ndjson")
                assert answer["accepted"] == lines.count("\n") + 1, answer

        timed(f"{entries} entries over HTTP", bring_in)
        server.kill()
        server.wait()
        server, url = timed("ready after kill -9", serve)
        report = json.loads(timed("verified whole", lambda: phivault("verify", "--json", "--dir", place("vault"))))
        assert report["verdict"] == "intact" and report["entries"] >= entries, report
        timed("backed up while it serves, and verified", lambda: phivault("backup", "--config", config, "--out", place("backup")))
        with open(place("checkpoint"), "wb") as file:
            file.write(urllib.request.urlopen(url + "/checkpoint").read())
        server.terminate()
        assert server.wait() == 0
        said = timed("restored", lambda: phivault(
            "restore", place("backup"), "--dir", place("again"), "--keyring", place("vault/keys/keyring"),
            "--checkpoint", place("checkpoint"), "--key-file", place("key")))
        assert "Nothing is missing" in said, said


if __name__ == "__main__":
    main(os.path.realpath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
