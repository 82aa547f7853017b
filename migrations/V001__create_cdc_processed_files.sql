-- The operators' view: one row per file version. The first seven columns are those of the deployment guide.
-- compatible_from: 1
CREATE TABLE IF NOT EXISTS cdc_processed_files (
    file_key TEXT NOT NULL,
    status TEXT NOT NULL,
    processed_at TIMESTAMPTZ NULL,
    request_id TEXT NULL,
    error_message TEXT NULL,
    attempt_count INT NULL,
    lambda_arn TEXT NULL,
    file_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    turn TEXT NOT NULL,
    bucket TEXT NOT NULL,
    object_key TEXT NOT NULL,
    etag TEXT NOT NULL,
    source_table TEXT NULL,
    target_table TEXT NULL,
    kind TEXT NULL,
    recorded_status TEXT NOT NULL,
    claim_id TEXT NULL,
    alone_count INT NOT NULL,
    error_class TEXT NULL,
    load_id TEXT NULL,
    rows_read BIGINT NULL,
    rows_upserted BIGINT NULL,
    rows_deleted BIGINT NULL,
    file_modified_at TIMESTAMPTZ NULL,
    first_seen_at TIMESTAMPTZ NULL,
    enqueued_at TIMESTAMPTZ NULL
)
PRIMARY INDEX file_id
PARTITION BY turn;
