-- What became of each row of a file, and what differed between a file and its target. NULL: loaded before this version.
-- compatible_from: 1
ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS schema_change TEXT NULL;
ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS rows_collapsed BIGINT NULL;
ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS rows_dropped BIGINT NULL;
ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS rows_moved BIGINT NULL;
ALTER TABLE cdc_applied ADD COLUMN IF NOT EXISTS schema_change TEXT NULL;
ALTER TABLE cdc_applied ADD COLUMN IF NOT EXISTS rows_collapsed BIGINT NULL;
ALTER TABLE cdc_applied ADD COLUMN IF NOT EXISTS rows_dropped BIGINT NULL;
ALTER TABLE cdc_applied ADD COLUMN IF NOT EXISTS rows_moved BIGINT NULL;
