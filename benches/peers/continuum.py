"""The load of continuum.sh: continuum.py URL."""
import multiprocessing, os, random, sys, time
from importlib.metadata import version
from cryptography.fernet import Fernet
from sqlalchemy import Integer, String, Column, create_engine, func, insert, select, text
from sqlalchemy.orm import Session, configure_mappers, declarative_base
from sqlalchemy.types import LargeBinary, TypeDecorator
from sqlalchemy_continuum import make_versioned, version_class

seconds = float(os.environ.get("PHIVAULT_BENCH_SECONDS", "10"))
url = sys.argv[1]
fernet = Fernet(Fernet.generate_key())
rows = 20_000


class Encrypted(TypeDecorator):
    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else fernet.encrypt(value.encode())

    def process_result_value(self, value, dialect):
        return None if value is None else fernet.decrypt(value).decode()


make_versioned(user_cls=None)
Base = declarative_base()


class Clinical(Base):
    __tablename__ = "clinical"
    __versioned__ = {}
    id = Column(Integer, primary_key=True)
    patient = Column(String, nullable=False, index=True)
    actor = Column(String, nullable=False, index=True)
    value = Column(Encrypted, nullable=False)


configure_mappers()


def value():
    return "abcdefghij" * 29 + f"{random.randrange(10**10):010}"


def client(ready, done):
    random.seed()
    engine = create_engine(url)
    engine.connect().close()
    ready.wait()
    updates, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        with Session(engine) as session:
            row = session.get(Clinical, random.randint(1, rows))
            row.actor, row.value = f"user-{random.randrange(2000)}", value()
            session.commit()
        updates += 1
    done.put((updates, time.monotonic() - start))


def measure(clients):
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Barrier(clients), fork.Queue()
    workers = [fork.Process(target=client, args=(ready, done)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    results = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    updates = sum(u for u, _ in results)
    print(f"{'update':<10} {clients:3d} clients {updates / max(s for _, s in results):12.0f} rows a second", flush=True)
    return updates


print(", ".join(f"{name} {version(name)}" for name in ("SQLAlchemy", "SQLAlchemy-Continuum", "cryptography", "psycopg2-binary")), flush=True)
engine = create_engine(url)
Base.metadata.create_all(engine)
with engine.begin() as connection:
    # the first state of each row is put in past the ORM, so it makes no versions
    connection.execute(insert(Clinical.__table__), [{"patient": f"MRN-{n}", "actor": "import", "value": value()} for n in range(rows)])
    assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
    assert connection.execute(text("SHOW fsync")).scalar() == "on"
engine.dispose()
written = sum(measure(clients) for clients in (1, 8, 32))
Version = version_class(Clinical)
with Session(engine) as session:
    kept = session.scalar(select(func.count()).select_from(Version.__table__))
    assert kept == written, f"{written} updates were acknowledged, {kept} versions are there"
    assert session.scalars(select(Version).limit(1)).one().value.startswith("abcdefghij" * 29)
    size = session.scalar(text("SELECT pg_total_relation_size('clinical_version') + pg_total_relation_size('transaction')"))
    print(f"versions {kept}, bytes a version {size // kept}")
