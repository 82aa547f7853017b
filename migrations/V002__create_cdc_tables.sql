-- The turn of each target table. One row and one partition each: whoever updates a row conflicts, at COMMIT, with
-- whoever else did, and with nobody else's table.
-- compatible_from: 1
CREATE TABLE IF NOT EXISTS cdc_tables (
    turn TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    source_table TEXT NULL,
    holder TEXT NULL,
    lease_until TIMESTAMPTZ NULL,
    version BIGINT NOT NULL,
    load_id TEXT NULL,
    generation BIGINT NOT NULL,
    generation_started_at TIMESTAMPTZ NULL,
    order_format TEXT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
)
PRIMARY INDEX turn
PARTITION BY turn;
