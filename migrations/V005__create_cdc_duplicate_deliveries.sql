-- One line for each delivery, by S3, of a file version that had been applied already.
-- compatible_from: 1
CREATE TABLE IF NOT EXISTS cdc_duplicate_deliveries (
    file_id TEXT NOT NULL,
    file_key TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    target_table TEXT NOT NULL,
    request_id TEXT NULL,
    delivered_at TIMESTAMPTZ NOT NULL
)
PRIMARY INDEX file_id;
