-- Whether a person asked to merge a file that was held as a reload: said once, it holds for every further try.
-- compatible_from: 7
ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS merge_asked BOOLEAN NULL;
