"""Dreams of jobs, with what became of each.

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        "dreams",
        sa.Column("job_id", text(), nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("frame", text(), nullable=False),
        sa.Column("task", text(), nullable=False),
        sa.Column("instruction", text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stage", text(), nullable=False),
        sa.Column("verdict", text(), nullable=False),
        sa.Column("tier", text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "idx", name=op.f("pk_dreams")),
    )


def downgrade() -> None:
    op.drop_table("dreams")
