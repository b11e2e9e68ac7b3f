"""The load of quipu.sh: quipu.py PORT queued|flushed. A client is a process with one kept connection."""
import json, multiprocessing, os, random, socket, sys, time

seconds = float(os.environ.get("PHIVAULT_BENCH_SECONDS", "10"))
port, how = int(sys.argv[1]), sys.argv[2]


class Connection:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, body=b""):
        self.socket.sendall(b"%b %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer bench\r\nContent-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n%b" % (method, path, len(body), body))
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        while len(body) < int(length or 0):
            body += self.socket.recv(65536)
        return int(head[9:12]), body

    def must(self, status, *request):
        got, body = self.ask(*request)
        if got != status:
            raise RuntimeError(f"{request[1].decode()}: {got} {body.decode()}")
        return json.loads(body) if body else None


def entry():
    observation, value = random.randrange(200_000), "abcdefghij" * 29 + f"{random.randrange(10**10):010}"
    return (f'{{"actor_type":"user","actor":{{"entity_id":"user-{random.randrange(2000)}","fields":{{}}}},"method":"POST",'
            f'"url":"/Observation/o-{observation}","content":{{"Text":"TREAT"}},"targets":[{{"entity_type":"observation","input":'
            f'{{"entity_id":"Observation/o-{observation}","fields":{{"patient":{{"Text":"MRN-{random.randrange(200_000)}"}},'
            f'"value":{{"Text":"{value}"}}}}}}}}]}}').encode()


def client(ready, done):
    random.seed()
    connection = Connection()
    ready.wait()
    entries = refused = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, body = connection.ask(b"POST", b"/v1/logs", entry())
        if status == 503:  # the queue is full
            refused += 1
            time.sleep(0.01)
            continue
        if status != 202:
            done.put(RuntimeError(f"{status} {body.decode()}"))
            return
        entries += 1
        if how == "flushed":
            connection.must(204, b"POST", b"/v1/admin/flush")
    done.put((entries, refused))


def measure(clients):
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Barrier(clients + 1), fork.Queue()
    workers = [fork.Process(target=client, args=(ready, done)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.monotonic()
    results = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    answered = time.monotonic() - start
    admin.must(204, b"POST", b"/v1/admin/flush")
    written = time.monotonic() - start
    entries, refused = sum(e for e, _ in results), sum(r for _, r in results)
    note = f"  ({entries / answered:.0f} answered a second, {refused} refused)" if how == "queued" else ""
    print(f"{how:<10} {clients:3d} clients {entries / written:12.0f} rows a second{note}", flush=True)
    return entries


for _ in range(100):
    try:
        admin = Connection()
        break
    except OSError:
        time.sleep(0.1)
field = {"kind": "Text", "required": False, "search": "None"}
for name, fields in (("user", []), ("observation", [
        {**field, "name": "patient", "protection": "None", "indexed": True},
        {**field, "name": "value", "protection": "Rsa", "indexed": False}])):
    admin.must(204, b"POST", b"/v1/types", json.dumps({"type_name": name, "fields": fields}).encode())
written = sum(measure(clients) for clients in (1, 8, 32))
rows = admin.must(200, b"POST", b"/v1/logs/count", b"{}")["count"]
parked = admin.must(200, b"GET", b"/v1/admin/dlq")["parked"]
assert rows == written and parked == 0, f"{written} entries were answered, {rows} are there, {parked} are parked"
one = json.dumps(admin.must(200, b"POST", b"/v1/logs/query", b'{"limit":1}'))
assert '"Rsa"' in one and "abcdefghij" not in one, one
print(f"rows {rows}, intact: {admin.must(200, b'POST', b'/v1/admin/verify')['ok']}")
