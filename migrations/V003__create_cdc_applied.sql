-- The truth: one line per applied file version, written in the transaction that applies its rows.
-- Only ever inserted into; no clean-up and no hand edit touches it.
-- compatible_from: 1
CREATE TABLE IF NOT EXISTS cdc_applied (
    applied_id TEXT NOT NULL,
    file_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    target_table TEXT NOT NULL,
    generation BIGINT NOT NULL,
    file_key TEXT NOT NULL,
    etag TEXT NOT NULL,
    kind TEXT NOT NULL,
    file_modified_at TIMESTAMPTZ NULL,
    load_id TEXT NOT NULL,
    rows_read BIGINT NULL,
    rows_upserted BIGINT NULL,
    rows_deleted BIGINT NULL,
    applied_at TIMESTAMPTZ NOT NULL
)
PRIMARY INDEX applied_id;
