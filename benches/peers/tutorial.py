"""The load of tutorial.sh: tutorial.py FOLDER."""
import multiprocessing, os, random, sqlite3, sys, threading, time
from datetime import datetime, timezone
import cryptography, sqlalchemy
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import LargeBinary, TypeDecorator

seconds = float(os.environ.get("PHIVAULT_BENCH_SECONDS", "10"))
folder = sys.argv[1]
file = os.path.join(folder, "audit.db")
fernet = Fernet(Fernet.generate_key())
value = "abcdefghij" * 30


class Encrypted(TypeDecorator):
    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else fernet.encrypt(value.encode())

    def process_result_value(self, value, dialect):
        return None if value is None else fernet.decrypt(value).decode()


class Base(DeclarativeBase):
    pass


class Audit(Base):
    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(index=True)
    patient: Mapped[str] = mapped_column(index=True)
    record: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]
    new_value: Mapped[str] = mapped_column(Encrypted)


def connect():
    engine = create_engine("sqlite:///" + file, connect_args={"timeout": 60})

    @event.listens_for(engine, "connect")
    def settings(connection, _):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    return engine


def row():
    n = random.randrange(200_000)
    return Audit(at=datetime.now(timezone.utc), actor=f"user-{random.randrange(2000)}", patient=f"MRN-{n}",
                 record=f"Observation/o-{random.randrange(200_000)}", reason="TREAT", new_value=value)


def client(ready, done, batch):
    random.seed()
    engine = connect()
    engine.connect().close()
    ready.wait()
    rows, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        with Session(engine) as session:
            session.add_all([row() for _ in range(batch)])
            session.commit()
        rows += batch
    done.put((rows, time.monotonic() - start))


def measure(name, clients, batch, threads=False):
    fork = multiprocessing.get_context("fork")
    kind = threading.Thread if threads else fork.Process
    ready, done = (threading if threads else fork).Barrier(clients), fork.Queue()
    workers = [kind(target=client, args=(ready, done, batch)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    results = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    rows = sum(r for r, _ in results)
    print(f"{name:<10} {clients:3d} clients {rows / max(s for _, s in results):12.0f} rows a second", flush=True)
    return rows


print(f"SQLAlchemy {sqlalchemy.__version__}, cryptography {cryptography.__version__}, SQLite {sqlite3.sqlite_version}", flush=True)
engine = connect()
Base.metadata.create_all(engine)
engine.dispose()
written = measure("batch", 1, 500)
for clients in (1, 8, 32):
    written += measure("processes", clients, 1) + measure("threads", clients, 1, threads=True)
with Session(connect()) as session:
    rows = session.scalar(select(func.count()).select_from(Audit))
    assert rows == written, f"{written} rows were acknowledged, {rows} are there"
    assert session.scalars(select(Audit).limit(1)).one().new_value == value
    session.connection().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
with open(file, "rb") as data:
    content = data.read()
assert b"MRN-" in content  # not encrypted, so it must be found
readable = content.count(b"abcdefghij" * 2)
print(f"rows {rows}, bytes a row {len(content) // rows}, readable values on disk {readable}")
assert readable == 0
