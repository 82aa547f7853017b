locals {
  schedules = {
    sweep     = var.cleanup.sweep_schedule
    reconcile = var.cleanup.reconcile_schedule
    audit     = var.cleanup.audit_schedule
    purge     = var.cleanup.purge_schedule
    reload    = local.reloads_by_itself ? var.cleanup.reload_schedule : "off"
  }
  reloads_by_itself = anytrue([for table in values(var.tables) : table.reload == "auto"])

  # In seconds; null for a cron expression and for `off`.
  rate_seconds = {
    for task, expression in local.schedules : task => try(
      tonumber(regex("^rate\\(([0-9]+) ", expression)[0])
      * { minute = 60, hour = 3600, day = 86400 }[regex("(minute|hour|day)s?\\)$", expression)[0]],
      null
    )
  }
  sweep_interval_seconds = coalesce(var.cleanup.sweep_interval_seconds, local.rate_seconds.sweep, 300)

  # The tasks that fire every day, and how often: their silence is a fault. A cron expression that leaves no day out
  # counts as once a day, however often it fires: its hours are not counted.
  schedule_rates = {
    for task, seconds in {
      for task, expression in local.schedules : task => (
        can(regex("^cron\\(\\S+ \\S+ (\\* \\* \\?|\\? \\* \\*) \\*\\)$", expression)) ? 86400 : local.rate_seconds[task]
      )
    } : task => seconds if seconds == null ? false : seconds <= 86400
  }

  # Every default is filled in here, so that a published version carries the whole of its configuration.
  config = {
    config_version = 1
    name           = var.name
    region         = local.region
    source = {
      bucket      = var.source_bucket.name
      prefix      = var.source_bucket.prefix
      suffix      = var.source_bucket.suffix
      start_after = var.source_bucket.start_after
    }
    firebolt = {
      account_name        = var.firebolt.account_name
      database            = var.firebolt.database
      engine_name         = var.firebolt.engine_name
      api_endpoint        = var.firebolt.api_endpoint
      secret_arn          = var.firebolt.secret_arn
      core_url            = var.firebolt.core_url
      source_location     = var.firebolt.source_location
      staging_location    = var.firebolt.staging_location
      s3_role_arn         = var.firebolt.s3_role_arn
      s3_role_external_id = var.firebolt.s3_role_external_id
    }
    queue = {
      url            = module.intake.queue_url
      arn            = module.intake.queue_arn
      dlq_url        = module.intake.dead_letter_queue_url
      dlq_arn        = module.intake.dead_letter_queue_arn
      target_dlq_url = module.intake.rule_dead_letter_queue_url
    }
    staging = {
      bucket = module.storage.bucket
      prefix = local.staging_prefix
    }
    deduplication_enabled = var.deduplication_enabled
    unlisted_tables       = var.unlisted_tables
    tables = {
      for key, table in var.tables : key => {
        target      = table.target == null ? split("/", key)[1] : table.target
        mode        = table.mode == null ? (length(table.primary_key) > 0 ? "merge" : "append") : table.mode
        primary_key = table.primary_key
        files = {
          path      = table.files.path == null ? "${key}/" : table.files.path
          full_load = table.files.full_load
          changes   = table.files.changes
        }
        order = {
          by      = table.order.by
          column  = table.order.column
          columns = table.order.columns
        }
        op            = table.op
        delete_marker = table.delete_marker
        before_image  = table.before_image
        deletes       = table.deletes
        schema_drift  = table.schema_drift
        missing_table = table.missing_table
        reload        = table.reload
      }
    }
    loader = {
      max_attempts    = var.loader.max_attempts
      timeout_seconds = var.loader.timeout_seconds
    }
    cleanup = {
      retention_days          = var.cleanup.retention_days
      sweep_interval_seconds  = local.sweep_interval_seconds
      queue_limit             = var.cleanup.queue_limit
      reconcile_grace_seconds = var.cleanup.reconcile_grace_seconds
      reload_quiet_seconds    = var.cleanup.reload_quiet_seconds
    }
    metrics_namespace = local.metrics_namespace
  }
}

# The table map may outgrow a function's environment (4 KB), so it travels as an object. Old versions
# are kept: a function version that is rolled back to reads the one it was published with.
resource "aws_s3_object" "config" {
  bucket       = module.storage.bucket
  key          = "config/config.json"
  content      = jsonencode(local.config)
  content_type = "application/json"

  # Said outright: where they are left out, the provider keeps what a former configuration had, and its key for ever. It can
  # change a key, and not take one off an object that it has in its state (docs/upgrade.md has the way).
  server_side_encryption = var.encryption == null ? "AES256" : "aws:kms"
  kms_key_id             = var.encryption == null ? null : var.encryption.kms_key_arn
  bucket_key_enabled     = var.encryption == null ? false : null

  # An S3 object can carry ten tags, fewer than a provider's default tags may hold.
  override_provider {
    default_tags {
      tags = {}
    }
  }

  # In another bucket it is another object: functions read the old one until PROD points to a version that reads the new.
  # Never replace it in the same bucket (-replace): its old self would take all versions of the key along.
  lifecycle {
    create_before_destroy = true
  }
}
