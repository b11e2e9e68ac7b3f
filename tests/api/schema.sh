#!/usr/bin/env bash
# Holds a vault against its own OpenAPI document: schemathesis makes requests, good and bad, from the document, and looks
# whether every answer is one that the document promises. Once for each role, and once without a token.
#
#   tests/api/schema.sh BINARY [EXAMPLES] [SEED]
#
# EXAMPLES is the most that is tried of each operation in each phase; 20 makes some 4,000 requests a role. The same seed
# makes the same requests, but for ids and times that the vault itself gives out. One line a role is printed; with
# failures the script ends with 1 and says where the details are. Needs python3, curl and openssl; schemathesis comes from
# PyPI unless the path has it.
set -euo pipefail

binary=$(realpath "$1") examples=${2:-20} seed=${3:-1}
work=$(mktemp -d)
server=
stop() { if [ -n "$server" ]; then kill "$server" && wait "$server" || true; server=; fi; }
trap 'stop; [ -n "${keep:-}" ] || rm -rf "$work"' EXIT
cd "$work"

if ! command -v schemathesis >/dev/null; then
    python3 -m venv venv
    venv/bin/pip install --quiet schemathesis==4.32.5
    PATH=$work/venv/bin:$PATH
fi

# What schemathesis cannot know from the document.
cat >schemathesis.toml <<'TOML'
[checks]
# Reason codes, times, ids and which field needs which are no business of JSON Schema: such input is refused with 400 or
# 422. Values may have been disposed of (410). What the document allows must never be refused otherwise, say with 415.
positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "410", "422", "503"]
# A vault that is busy answers 503, and `hooks.py` asks for Retry-After. No other failure of the server is right.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]

[[operations]]
include-path = "/v1/entries/batch"
# With partial=true a bad line is refused by its own result, inside an answer of 200.
checks.negative_data_rejection.expected-statuses = ["200", "400", "401", "403", "409", "415", "422", "503"]

[[operations]]
include-path = "/v1/login"
# After some failures under one name it waits (429, with Retry-After).
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "415", "422", "429", "503"]
TOML

cat >hooks.py <<'PYTHON'
"""What every answer must hold to beyond the document, and which requests get somewhere."""
import json, random

import schemathesis

GOOD = json.load(open("good.json"))


def refers(node, only=None):
    """The names of the schemas that are referred to, anywhere below or only under this keyword."""
    if isinstance(node, list):
        for item in node:
            yield from refers(item, only)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and only is None:
                yield value.rsplit("/", 1)[-1]
            else:
                yield from refers(value, None if key == only else only)


@schemathesis.hook
def before_load_schema(context, document):
    """An answer may have no member that the document does not name; OpenAPI's default is that it may."""
    schemas = document["components"]["schemas"]
    operations = [it for path in document["paths"].values() for it in path.values() if isinstance(it, dict)]
    inputs, new = set(), set(refers([it.get("requestBody", {}) for it in operations]))
    while new:
        inputs |= new
        new = {name for it in new for name in refers(schemas[it])} - inputs
    # What is a part of another schema cannot be closed: the other's members would be too many.
    parts = set(refers(schemas, only="allOf"))
    for name in schemas.keys() - inputs - parts:
        if "properties" in schemas[name] or "allOf" in schemas[name]:
            schemas[name]["unevaluatedProperties"] = False


@schemathesis.hook
def before_call(context, case, kwargs):
    """Most of what the document allows finds nothing, for ids and codes are free text. So half of it is made of what this vault
    knows, with one part of the body as it was made up."""
    made = case.meta
    if made is None or made.phase.name.value != "fuzzing" or not made.generation.mode.is_positive:
        return
    dice = random.Random(repr((case.path_parameters, case.query, case.body)))
    good = GOOD.get(f"{case.operation.method.upper()} {case.operation.path}", {})
    if dice.random() < 0.5 or not good:
        return
    case.query = {}
    for name, values in good.items():
        value = dice.choice(values)
        if name == "body":
            made_up = case.body if isinstance(case.body, dict) and isinstance(value, dict) else {}
            some = dice.sample(sorted(made_up), min(len(made_up), dice.choice([0, 0, 1])))
            case.body = {**value, **{it: made_up[it] for it in some}} if some else value
        elif value is not None:
            (case.path_parameters if "{" + name + "}" in case.operation.path else case.query)[name] = value


@schemathesis.check
def has_the_headers_of_all_answers(ctx, response, case):
    for name in ["x-request-id", "cache-control", "x-content-type-options"]:
        assert name in response.headers, f"{name} is missing"


@schemathesis.check
def is_a_problem(ctx, response, case):
    """RFC 9457, and when to come again."""
    path, status = case.operation.path, response.status_code
    if status >= 400 and path not in ["/healthz", "/readyz"] and response.request.method != "HEAD":
        kind = response.headers["content-type"][0]
        assert kind == "application/problem+json", f"a failure came as {kind}"
        assert response.json()["status"] == status, "problem and answer differ in their status"
        if status in [429, 503]:
            assert "retry-after" in response.headers, "Retry-After is missing"
PYTHON

# Fills a vault, writes down what good requests look like, and prints the token of a role.
cat >fill.py <<'PYTHON'
import json, subprocess, sys, urllib.error, urllib.request

binary, url, role, first = *sys.argv[1:], open("admin.token").read().strip()


def post(path, token, body):
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers, method="POST")
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        sys.exit(f"{path} answered {error.code}: {error.read().decode()}")


def token(role, **more):
    return post("/v1/tokens", first, {"role": role, "label": role, **more})


def submission(n, **more):
    is_new = n < 20
    change = {"field": "value", "new": n} | ({} if is_new else {"old": n - 20})
    return {
        "action": "create" if is_new else "update", "actor": {"id": f"dr-{n % 4}"}, "patient": {"id": f"p-{n % 3}"},
        "reason": {"code": "TREAT", "change": "NEWDATA" if is_new else "CHGDATA"},
        "record": {"type": "Observation", "id": f"o-{n % 20}"}, "changes": [change], **more,
    }


hashed = subprocess.run([binary, "token", "generate", "--out", "second.token"], check=True, capture_output=True, text=True)
token("admin", label="another administrator", token_hash=hashed.stdout.strip())
second = open("second.token").read().strip()
app, officer = token("submitter")["token"], token("officer")["token"]
other = token("officer", label="another officer")["token"]
tokens = {"nobody": "", "admin": first, "submitter": app, "officer": officer, "auditor": token("auditor")["token"],
          "patient": token("patient", patient="p-0")["token"]}
spare = [token("auditor")["id"] for _ in range(3)]
why, admins = {"reason": {"code": "HCOMPL"}}, {"reason": {"code": "HSYSADMIN"}}

entries = [post("/v1/entries", app, submission(n))["id"] for n in range(40)]
kinds = ["access", "users", "patient", "disclosures", "break-glass", "review", "logins", "reasons", "privileged", "integrity", "continuity", "values"]
asked = [{"report": it, "actor": "dr-1", **why} if it == "access" else
         {"report": it, "patient": "p-0", **why} if it in ["patient", "disclosures"] else
         {"report": it, "patient": "p-0", "field": "value", "record_type": "Observation", **why} if it == "values" else
         {"report": it, **why} for it in kinds]
reports = [post("/v1/reports", tokens["patient"] if role == "patient" else officer, it)["id"]
           for it in asked if role != "patient" or it["report"] == "patient"]
undo = [{"undo": entries[20 + n], **why} for n in range(20)]
plans = [post(f"/v1/records/Observation/o-{n}/restore", other, undo[n])["id"] for n in range(12)]
for plan in plans[:6]:
    post(f"/v1/restores/{plan}/approve", officer, why)
holds = [post("/v1/holds", officer, {"name": f"h-{n}", "authority": "court", "scope": {"patient": f"held-{n}"}, **why})["id"] for n in range(6)]
erase = [{"request": {"operation": "redact", "entry": it, "authority": "court"}, **admins} for it in entries[14:20]]
asks = [post("/v1/admin/operations", second, it) for it in erase[:4]]
# Where one administrator is enough they are done by now.
approvals = [it.get("id", "none") for it in asks]
certificates = [it.get("certificate") or "none" for it in asks]
record = {"type": ["Observation"], "id": ["o-1", "o-2", "o-30"], "reason": ["HCOMPL"]}
by = {"by": ["occurred", "received"]}

# By operation: for each parameter, and for the body, what may be taken.
good = {
    "POST /v1/entries": {"wait": ["proof", None, None, None], "body": [submission(n) for n in range(16, 19)]},
    "POST /v1/entries/batch": {"body": [[submission(n), submission(n + 1)] for n in range(16, 19)]},
    "GET /v1/entries": {"patient": ["p-0"], "order": ["newest", "oldest"], "time": ["received"], "outcome": ["success"], "limit": [1, 9]},
    "POST /v1/entries/query": {"body": [{"patient": "p-0", "limit": 5}, {"actor": "dr-1", "order": "oldest"}]},
    "POST /v1/entries/trail": {"body": [{"patient": "p-0"}, {"patient": "p-1", "before": 30}]},
    "GET /v1/entries/{id}": {"id": entries},
    "GET /v1/entries/{id}/leaf": {"id": entries},
    "GET /v1/entries/{id}/proof": {"id": entries, "format": ["json", "text"]},
    "POST /v1/entries/{id}/reveal": {"id": entries, "body": [why]},
    "POST /v1/entries/{id}/disclose": {"id": entries, "body": [{"paths": ["changes/0/new"], **why}]},
    "POST /v1/reveal": {"body": [{"ids": entries[:3], **why}]},
    "GET /v1/records/{type}/{id}/continuity": record,
    "GET /v1/records/{type}/{id}/history": {**record, **by, "limit": [1, 9]},
    "GET /v1/records/{type}/{id}/state": {**record, **by},
    "GET /v1/records/{type}/{id}/fields/{field}": {**record, **by, "field": ["value"], "format": ["json", "csv", "svg"]},
    "GET /v1/records/{type}/{id}/diff": {**record, **by, "from": ["1", "30", "2020-01-01T00:00:00Z"]},
    "POST /v1/records/{type}/{id}/restore": {"type": ["Observation"], "id": ["o-12"], "body": [undo[12]]},
    "GET /v1/restores/{id}": {"id": plans},
    "POST /v1/restores/{id}/approve": {"id": plans[6:9], "body": [why]},
    "POST /v1/restores/{id}/cancel": {"id": plans[9:], "body": [why]},
    "POST /v1/restores/{id}/confirm": {"id": plans[:6], "body": [{"actor": {"id": "dr-1"}, "reason": {"code": "TREAT", "change": "FIXDATA"}}]},
    "POST /v1/reports": {"body": asked},
    "GET /v1/reports/{id}": {"id": reports, "format": ["json", "csv", "html", "pdf"]},
    "GET /v1/reports/{id}/manifest": {"id": reports, "format": ["json", "csv", "html", "pdf"]},
    "GET /v1/reports/access": {"actor": ["dr-1", None], "reason": ["HCOMPL"], "format": ["json", "csv"], "time_zone": ["Z", "+02:00"]},
    "GET /v1/reports/breach-scope": {"key_version": [1], "reason": ["HCOMPL"]},
    "POST /v1/reviews": {"body": [{"entries": entries[:2], "outcome": "appropriate", **why}]},
    "POST /v1/holds": {"body": [{"name": "case 1", "authority": "court", "scope": {"patient": "held"}, **why}]},
    "POST /v1/holds/{id}/lift": {"id": holds, "body": [why]},
    "POST /v1/tokens": {"body": [{"role": "auditor", "label": "a"}, {"role": "patient", "label": "p", "patient": "p-1"}]},
    "DELETE /v1/tokens/{id}": {"id": spare},
    "POST /v1/admin/operations": {"body": erase[4:] + [{"request": {"operation": "key_destroy", "version": n}, **admins} for n in [1, 2]]},
    "POST /v1/approvals/{id}/approve": {"id": approvals[:3], "body": [admins]},
    "POST /v1/approvals/{id}/cancel": {"id": approvals[3:], "body": [admins]},
    "GET /v1/retention/certificates/{id}": {"id": certificates},
    "POST /v1/keys/re-encrypt": {"body": [admins]},
    "GET /tile/{tile}": {"tile": ["0/000.p/40", "0/000.p/1", "0/000"]},
}
for path in ["rotate", "rotate-index", "rotate-signing", "rotate-state"]:
    good[f"POST /v1/keys/{path}"] = {"body": [admins]}
json.dump(good, open("good.json", "w"))
print(tokens[role])
PYTHON

openssl rand -hex 32 >key
chmod 600 key
requests() { curl -sf "$url/metrics" | awk '/^phivault_http_requests_total/ { sum += $NF } END { print sum }'; }

# A vault of its own for each, so that nobody's run depends on another's. `alone` is an administrator who needs no second
# one: keys are destroyed and values erased for real. For `admin` such requests wait, as nobody else is there to approve
# them; and the last administrator's token cannot be revoked, so no operation has to be left out.
failed=0
for role in nobody patient submitter auditor officer admin alone; do
    rm -rf vault second.token
    "$binary" init --dir vault --key-file key >init 2>&1
    grep -oE 'phv_[0-9a-f]+' init >admin.token
    PHIVAULT_SERVER__LISTEN=127.0.0.1:0 PHIVAULT_LIMITS__QUERIES_PER_SECOND=0 PHIVAULT_LOG__LEVEL=error \
        PHIVAULT_ADMIN__TWO_PERSON=$([ $role = alone ] && echo false || echo true) \
        "$binary" serve --config vault/phivault.toml >$role.log 2>&1 &
    server=$!
    url=
    for _ in $(seq 100); do
        url=$(grep -oE "http://127.0.0.1:[0-9]+" $role.log 2>/dev/null | head -1) && break
        sleep 0.1
    done
    token=$(python3 fill.py "$binary" "$url" ${role/alone/admin})
    before=$(requests)
    code=0
    SCHEMATHESIS_HOOKS=hooks schemathesis --config-file schemathesis.toml run "$url/openapi.json" ${token:+-H "Authorization: Bearer $token"} \
        --checks all --max-examples "$examples" --seed "$seed" --generation-database none --continue-on-failure --no-color \
        --request-timeout 30 --warnings off --report ndjson --report-ndjson-path $role.ndjson >$role.txt 2>&1 || code=$?
    sent=$(($(requests) - before)) || true
    failures=$(grep -oE '[0-9]+ failures?' $role.txt | tail -1 | grep -oE '[0-9]+' || true)
    # Nothing may have gone wrong inside either, and the vault must still be there.
    errors=$(grep -cE ' ERROR phivault|panicked' $role.log || true)
    curl -sf "$url/healthz" >/dev/null || errors=$((errors + 1))
    echo "$role: $sent requests, ${failures:-0} failures, $errors errors in the log"
    [ $code = 0 ] && [ "$errors" = 0 ] || failed=1
    stop
done
if [ $failed != 0 ]; then
    keep=yes
    echo "details: $work/*.txt and *.log"
    exit 1
fi
