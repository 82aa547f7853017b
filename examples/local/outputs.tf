output "env" {
  description = "What .local/env tells about this deployment."
  value = {
    SOURCE_BUCKET    = aws_s3_bucket.source.id
    SOURCE_PREFIX    = "firebolt_dms_job/"
    LOADER_FUNCTION  = module.firebolt_cdc.loader_function_name
    CLEANUP_FUNCTION = module.firebolt_cdc.cleanup_function_name
    MIGRATE_FUNCTION = module.firebolt_cdc.migrate_function_name
    QUEUE_URL        = module.firebolt_cdc.queue_url
    DLQ_URL          = module.firebolt_cdc.dlq_url
    RULE_DLQ_URL     = module.firebolt_cdc.rule_dlq_url
    MODULE_BUCKET    = module.firebolt_cdc.module_bucket
    CONFIG_BUCKET    = module.firebolt_cdc.config.bucket
    CONFIG_KEY       = module.firebolt_cdc.config.key
  }
}
