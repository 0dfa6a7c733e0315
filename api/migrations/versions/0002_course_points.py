"""Points on a job's course, so that showing it does not count its attempts.

Revision: 0002, after 0001
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "course_points",
        sa.Column("job_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("successes", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("worker_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempts", name=op.f("pk_course_points")),
    )


def downgrade() -> None:
    op.drop_table("course_points")
