# Most of what can be set, in an account that also owns the source bucket: customer key, VPC,
# alarms to a topic, Firebolt's role, table options.

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

module "firebolt_cdc" {
  source = "../.."

  name = var.name

  source_bucket = {
    name         = aws_s3_bucket.source.id
    prefix       = "firebolt_dms_job/"
    suffix       = ".parquet"
    kms_key_arns = [aws_kms_key.cdc.arn]
    start_after  = "2024-11-24T00:00:00Z"
  }

  firebolt = {
    account_name        = "my-account"
    engine_name         = "my_engine"
    database            = "firebolt"
    secret_arn          = aws_secretsmanager_secret.firebolt.arn
    secret_kms_key_arn  = aws_kms_key.cdc.arn
    s3_role_arn         = aws_iam_role.firebolt.arn
    s3_role_external_id = var.firebolt_external_id
  }

  tables = {
    # Changes ordered by the column that a DMS transformation rule adds.
    "fair/sessions" = {
      primary_key = ["sid"]
      order       = { by = "change_seq", column = "AR_H_CHANGE_SEQ" }
    }
    # Deleted rows stay, flagged; a new column fails the file until somebody has looked at it.
    "fair/customers" = {
      target        = "dim_customer"
      primary_key   = ["tenant_id", "customer_id"]
      deletes       = "soft"
      schema_drift  = "fail"
      missing_table = "fail"
    }
    # No key: every change is kept.
    "fair/events" = { mode = "append" }
  }
  unlisted_tables = "skip"

  loader = {
    memory_mb            = 3008
    timeout_seconds      = 600
    batch_size           = 200
    batch_window_seconds = 60
    max_concurrency      = 5
  }

  queue = {
    retention_seconds = 604800
    max_receive_count = 20
  }

  cleanup = {
    reconcile_schedule = "rate(6 hours)"
    purge_schedule     = "cron(0 4 * * ? *)"
    retention_days     = 90
  }

  alarms = {
    actions                = [aws_sns_topic.alarms.arn]
    ok_actions             = [aws_sns_topic.alarms.arn]
    oldest_message_seconds = 1800
  }

  network = {
    subnet_ids         = var.subnet_ids
    security_group_ids = var.security_group_ids
  }

  encryption = {
    kms_key_arn = aws_kms_key.cdc.arn
    logs        = true
  }

  security = {
    permissions_boundary_arn = var.permissions_boundary_arn
    role_path                = "/firebolt-cdc/"
  }

  logs = { retention_days = 365 }

  # Built and put there by a release pipeline.
  package_s3 = var.package_s3

  live_version = var.live_version

  tags = { team = "data-platform" }
}

resource "aws_kms_key" "cdc" {
  description             = "Files, queues and logs of ${var.name}."
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "AllowAccount"
        Effect    = "Allow"
        Principal = { AWS = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      }],
      jsondecode(module.firebolt_cdc.kms_key_policy_statements),
      [{
        Sid       = "AllowAlarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
      }],
    )
  })
}

# The value never passes through Terraform: aws secretsmanager put-secret-value.
resource "aws_secretsmanager_secret" "firebolt" {
  #checkov:skip=CKV2_AWS_57:Firebolt's service accounts have no rotation that Secrets Manager could drive.
  name        = "${var.name}/firebolt"
  description = "Firebolt service account: {\"client_id\": \"…\", \"client_secret\": \"…\"}"
  kms_key_id  = aws_kms_key.cdc.arn
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.cdc.arn
}

# Firebolt assumes this role to read the files.
resource "aws_iam_role" "firebolt" {
  name = "${var.name}-firebolt"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { AWS = var.firebolt_principal_arn }
      Condition = { StringEquals = { "sts:ExternalId" = var.firebolt_external_id } }
    }]
  })
}

resource "aws_iam_role_policy" "firebolt" {
  name   = "read-files"
  role   = aws_iam_role.firebolt.name
  policy = module.firebolt_cdc.firebolt_s3_policy
}
