data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # `id` is the one attribute of this data source that provider 5 has and provider 6 does not deprecate.
  region = data.aws_region.current.id

  tags              = merge({ "firebolt-cdc:pipeline" = var.name }, var.tags)
  metrics_namespace = "FireboltCdc"

  source_bucket_arn = "arn:${local.partition}:s3:::${var.source_bucket.name}"
  module_bucket     = var.module_bucket.name == null ? "${var.name}-${local.account}-${local.region}" : var.module_bucket.name
  module_bucket_arn = "arn:${local.partition}:s3:::${local.module_bucket}"
  staging_prefix    = "staging/"

  visibility_timeout_seconds = coalesce(
    var.queue.visibility_timeout_seconds,
    6 * var.loader.timeout_seconds + var.loader.batch_window_seconds,
  )
}

module "storage" {
  source = "./modules/storage"

  bucket         = local.module_bucket
  force_destroy  = var.module_bucket.force_destroy
  staging_prefix = local.staging_prefix
  package_prefix = local.package_prefix
  encryption     = var.encryption
  enforce_tls    = var.security.enforce_tls
  tags           = local.tags
}

module "intake" {
  source = "./modules/intake"

  name                            = var.name
  partition                       = local.partition
  region                          = local.region
  account                         = local.account
  source_bucket                   = var.source_bucket.name
  prefix                          = var.source_bucket.prefix
  suffix                          = var.source_bucket.suffix
  manage_eventbridge_notification = var.source_bucket.manage_eventbridge_notification
  retention_seconds               = var.queue.retention_seconds
  dead_letter_retention_seconds   = var.queue.dead_letter_retention_seconds
  visibility_timeout_seconds      = local.visibility_timeout_seconds
  max_receive_count               = var.queue.max_receive_count
  encryption                      = var.encryption
  enforce_tls                     = var.security.enforce_tls
  tags                            = local.tags
}

locals {
  # What the three functions have in common; each adds its own part below.
  function = {
    runtime      = var.loader.runtime
    architecture = var.loader.architecture
    environment = merge(
      {
        HOME                 = "/tmp"
        POWERTOOLS_LOG_LEVEL = var.loader.log_level
      },
      var.loader.environment,
      {
        CDC_CONFIG_BUCKET            = aws_s3_object.config.bucket
        CDC_CONFIG_KEY               = aws_s3_object.config.key
        CDC_CONFIG_VERSION_ID        = aws_s3_object.config.version_id
        POWERTOOLS_METRICS_NAMESPACE = local.metrics_namespace
        POWERTOOLS_SERVICE_NAME      = var.name
      },
    )
  }
}

module "migrate" {
  source = "./modules/function"

  name                     = "${var.name}-migrate"
  description              = "Runs the SQL migrations of ${var.name} and seeds its table map."
  handler                  = "firebolt_cdc.migrate.handler"
  package                  = local.package
  runtime                  = local.function.runtime
  architecture             = local.function.architecture
  memory_mb                = var.migrations.memory_mb
  timeout_seconds          = var.migrations.timeout_seconds
  environment              = local.function.environment
  policy_statements        = local.migrate_policy
  role_name                = "${var.name}-${local.region}-migrate"
  role_path                = var.security.role_path
  permissions_boundary_arn = var.security.permissions_boundary_arn
  network                  = var.network
  log_retention_days       = var.logs.retention_days
  encryption               = var.encryption
  partition                = local.partition
  tags                     = local.tags
}

locals {
  migration_files = sort(fileset("${path.module}/migrations", "*.sql"))
  migrations_sha256 = sha256(join("\n", [
    for file in local.migration_files : "${file} ${filesha256("${path.module}/migrations/${file}")}"
  ]))
}

resource "aws_lambda_invocation" "migrate" {
  count = var.migrations.run_on_apply ? 1 : 0

  function_name = module.migrate.function_name
  qualifier     = module.migrate.alias_name

  # Any change of the input invokes the function again; an error that it raises fails the apply.
  input = jsonencode({
    action            = "migrate"
    config_version_id = aws_s3_object.config.version_id
    migrations_sha256 = local.migrations_sha256
    package           = local.package.identity
  })
}

module "loader" {
  source = "./modules/function"

  name                     = "${var.name}-loader"
  description              = "Loads the files of ${var.source_bucket.name} into Firebolt."
  handler                  = "firebolt_cdc.loader.handler"
  package                  = local.package
  runtime                  = local.function.runtime
  architecture             = local.function.architecture
  memory_mb                = var.loader.memory_mb
  timeout_seconds          = var.loader.timeout_seconds
  ephemeral_storage_mb     = var.loader.ephemeral_storage_mb
  environment              = local.function.environment
  policy_statements        = local.loader_policy
  role_name                = "${var.name}-${local.region}-loader"
  role_path                = var.security.role_path
  permissions_boundary_arn = var.security.permissions_boundary_arn
  network                  = var.network
  log_retention_days       = var.logs.retention_days
  encryption               = var.encryption
  partition                = local.partition
  live_version             = var.live_version
  live_after               = aws_lambda_invocation.migrate[*].id
  tags                     = local.tags

  # A file waits as a delayed copy of its message on the loader's own queue (send_copy in firebolt_cdc/queues.py), for as
  # long as an outage, a reload or a long load lasts: hundreds of rounds, where Lambda would stop it after about 16. What
  # bounds the loop is of our own: one copy for each message that is acknowledged, and only while its file waits; each is
  # delayed, by up to two minutes; a file that fails uses up its attempts and goes to the dead letter queue; and no more
  # loaders run at a time than max_concurrency. Waits that are too long are seen by the alarm longest-wait.
  recursive_loop = "Allow"
}

resource "aws_lambda_event_source_mapping" "loader" {
  event_source_arn                   = module.intake.queue_arn
  function_name                      = module.loader.alias_arn
  enabled                            = !var.loader.paused
  batch_size                         = var.loader.batch_size
  maximum_batching_window_in_seconds = var.loader.batch_window_seconds
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.loader.max_concurrency
  }

  depends_on = [aws_lambda_invocation.migrate]
}

module "cleanup" {
  source = "./modules/function"

  name                     = "${var.name}-cleanup"
  description              = "Sweeps, reconciles, audits and purges the ledger of ${var.name}."
  handler                  = "firebolt_cdc.cleanup.handler"
  package                  = local.package
  runtime                  = local.function.runtime
  architecture             = local.function.architecture
  memory_mb                = var.cleanup.memory_mb
  timeout_seconds          = var.cleanup.timeout_seconds
  environment              = local.function.environment
  policy_statements        = local.cleanup_policy
  role_name                = "${var.name}-${local.region}-cleanup"
  role_path                = var.security.role_path
  permissions_boundary_arn = var.security.permissions_boundary_arn
  network                  = var.network
  log_retention_days       = var.logs.retention_days
  encryption               = var.encryption
  partition                = local.partition
  live_after               = aws_lambda_invocation.migrate[*].id
  tags                     = local.tags
}

module "schedules" {
  source = "./modules/schedules"

  name          = var.name
  schedules     = local.schedules
  function_name = module.cleanup.function_name
  alias_name    = module.cleanup.alias_name
  alias_arn     = module.cleanup.alias_arn
  tags          = local.tags
}

module "observability" {
  source = "./modules/observability"

  name                        = var.name
  region                      = local.region
  namespace                   = local.metrics_namespace
  alarms                      = var.alarms
  loader_function             = module.loader.function_name
  loader_timeout_seconds      = var.loader.timeout_seconds
  cleanup_function            = module.cleanup.function_name
  migrate_function            = module.migrate.function_name
  queue_name                  = module.intake.queue_name
  dead_letter_queue_name      = module.intake.dead_letter_queue_name
  rule_dead_letter_queue_name = module.intake.rule_dead_letter_queue_name
  rule_name                   = module.intake.rule_name
  schedule_rule_names         = module.schedules.rule_names
  schedule_rates              = local.schedule_rates
  tags                        = local.tags
}
