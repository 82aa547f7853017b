-- What was deleted, and at which place in the order of changes, so that an older insert that comes late stays out.
-- compatible_from: 1
CREATE TABLE IF NOT EXISTS cdc_tombstones (
    target_table TEXT NOT NULL,
    generation BIGINT NOT NULL,
    row_key TEXT NOT NULL,
    seq TEXT NOT NULL,
    file_modified_at TIMESTAMPTZ NULL,
    load_id TEXT NOT NULL
)
PRIMARY INDEX target_table, row_key
PARTITION BY target_table;
