"""What was asked of a language model, what it cost, and what it answered: one SQLite file that survives anything.

A request is entered before it is sent, with the most it can cost, and settled when its outcome is known. So a budget is
never exceeded, not even by requests in flight when the power fails, and an answer once paid for is never asked again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.errors import FactoryError, StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,              -- what was asked
    kind TEXT NOT NULL,
    sent_at REAL NOT NULL,          -- seconds since 1970
    most_usd REAL NOT NULL,         -- reserved until it is settled
    outcome TEXT,                   -- NULL: sent, and never heard of again
    usd REAL,
    tokens_in INTEGER,
    tokens_out INTEGER
);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    request INTEGER NOT NULL REFERENCES requests (id),
    text TEXT NOT NULL
);
"""
_WAIT_S = 30.0
"""Two commands may share a ledger; each transaction takes milliseconds."""


class BudgetError(FactoryError):
    """The next request could cost more than is left of the budget."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a ledger adds up to.

    Attributes:
        requests: how many were sent, whatever came of them.
        outcomes: outcome -> how many; "unknown" for those that were never heard of again.
        usd: what they cost; of unknown ones the most they can have cost.
        tokens_in: as the server counted them; likewise tokens_out.
        tokens_out: see tokens_in.
        answers: different questions answered.
    """

    requests: int
    outcomes: Mapping[str, int]
    usd: float
    tokens_in: int
    tokens_out: int
    answers: int


class Ledger:
    """An open ledger; one may be used from several threads, and one file by several processes."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises StorageError when it cannot be, or is something else."""
        self._path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path} cannot be opened as a ledger of requests: {error}") from error

    def answer(self, key: str) -> str | None:
        """Return the answer to a question that was paid for before, else None."""
        with self._lock:
            found = self._db.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def begin(self, key: str, kind: str, *, most_usd: float, budget_usd: float | None, now_s: float) -> int:
        """Enter a request that is about to be sent and reserve what it may cost; returns its number.

        Raises:
            BudgetError: it could cost more than is left; nothing was entered and nothing may be sent.
        """
        with self._lock:
            # One statement, so that two processes cannot both find the same money.
            entered = self._db.execute(
                "INSERT INTO requests (key, kind, sent_at, most_usd) SELECT ?1, ?2, ?3, ?4 WHERE ?5 IS NULL OR "
                "(SELECT COALESCE(SUM(COALESCE(usd, most_usd)), 0) FROM requests) + ?4 <= ?5",
                (key, kind, now_s, most_usd, budget_usd),
            )
        if not entered.rowcount:
            raise BudgetError(
                f"{self.totals().usd:.4f} of {budget_usd:g} USD are spent or reserved and the next request may cost "
                f"{most_usd:.4f}; raise the budget to go on where this stopped ({self._path})"
            )
        return int(entered.lastrowid or 0)

    def settle(
        self,
        request: int,
        outcome: str,
        *,
        usd: float | None = None,
        tokens_in: int = 0,
        tokens_out: int = 0,
        answer: str | None = None,
    ) -> None:
        """Write down what came of a request; `usd` None leaves what was reserved as its cost."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "UPDATE requests SET outcome = ?, usd = COALESCE(?, most_usd), tokens_in = ?, tokens_out = ? "
                "WHERE id = ?",
                (outcome, usd, tokens_in, tokens_out, request),
            )
            if answer is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO answers (key, request, text) SELECT key, id, ? FROM requests WHERE id = ?",
                    (answer, request),
                )
            self._db.execute("COMMIT")

    def totals(self) -> Totals:
        """Return what all requests add up to."""
        with self._lock:
            outcomes = self._db.execute(
                "SELECT COALESCE(outcome, 'unknown'), COUNT(*) FROM requests GROUP BY 1 ORDER BY 1"
            ).fetchall()
            usd, tokens_in, tokens_out = self._db.execute(
                "SELECT COALESCE(SUM(COALESCE(usd, most_usd)), 0), COALESCE(SUM(tokens_in), 0), "
                "COALESCE(SUM(tokens_out), 0) FROM requests"
            ).fetchone()
            (answers,) = self._db.execute("SELECT COUNT(*) FROM answers").fetchone()
        return Totals(
            requests=sum(n for _, n in outcomes),
            outcomes=dict(outcomes),
            usd=usd,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            answers=answers,
        )

    def close(self) -> None:
        """Close the file; nothing is lost by not doing so."""
        with self._lock:
            self._db.close()
