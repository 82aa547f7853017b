# The source bucket belongs to whoever runs DMS. EventBridge is switched on where the bucket is defined.
resource "aws_s3_bucket" "source" {
  bucket        = "dms-source"
  force_destroy = true
}

resource "aws_s3_bucket_notification" "source" {
  bucket      = aws_s3_bucket.source.id
  eventbridge = true
}

module "firebolt_cdc" {
  source = "../.."

  name = "cdc-local"

  source_bucket = {
    name   = aws_s3_bucket.source.id
    prefix = "firebolt_dms_job/"
  }

  firebolt = {
    database = var.firebolt_database
    core_url = var.firebolt_core_url
  }

  tables = merge({
    "fair/sessions"    = { primary_key = ["sid"] }
    "fair/events"      = { mode = "append" }
    "fair/members"     = { primary_key = ["sid"], reload = "auto" }
    "flights/flights"  = { primary_key = ["flight_id"] }
    "flights/airlines" = { primary_key = ["carrier"] }
    "flights/planes"   = { primary_key = ["tailnum"] }
    "flights/weather"  = { primary_key = ["origin", "time_hour"] }
  }, var.extra_tables)

  # Short times, so that a crash can be watched healing. The emulator runs the functions under its own
  # Python whatever the runtime says, and has neither memory limits nor a batching window.
  loader = {
    timeout_seconds      = var.loader_timeout_seconds
    memory_mb            = var.loader_memory_mb
    batch_window_seconds = 1
    max_concurrency      = 4
  }

  cleanup = {
    sweep_schedule          = "rate(1 minute)"
    sweep_interval_seconds  = 60
    reload_quiet_seconds    = 5
    reconcile_grace_seconds = 60
    timeout_seconds         = 60
  }

  live_version  = var.live_version
  package_path  = var.package_path
  module_bucket = { force_destroy = true }
  security      = { enforce_tls = false }
}
