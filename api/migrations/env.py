"""How Alembic reaches the job book: through the `Database` that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from api.database import Database
from api.tables import Table
from factory.failpoints import reached

database: Database = context.config.attributes["database"]

with database.engine.connect().execution_options(writes=True) as connection:
    # SQLite changes a column by copying its table; PostgreSQL locks out a second migration until the first is done.
    # One migration is one transaction on both.
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=True,
        compare_type=True,
        on_version_apply=lambda **_: reached("migration.before_commit"),
    )
    with context.begin_transaction():
        if database.kind == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1953655158)")
        context.run_migrations()
    connection.commit()
