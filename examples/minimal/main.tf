# The smallest pipeline: one source bucket, one Firebolt account, two tables.

provider "aws" {
  region = var.region
}

module "firebolt_cdc" {
  source = "../.."

  name = "fair-dev"

  source_bucket = {
    name   = var.source_bucket
    prefix = "firebolt_dms_job/"
  }

  firebolt = {
    account_name = "my-account"
    engine_name  = "my_engine"
    database     = "firebolt"
    secret_arn   = aws_secretsmanager_secret.firebolt.arn
    s3_role_arn  = var.firebolt_s3_role_arn
  }

  tables = {
    "fair/sessions" = { primary_key = ["sid"] }
    "fair/events"   = {}
  }
}

# The value never passes through Terraform.
resource "aws_secretsmanager_secret" "firebolt" {
  #checkov:skip=CKV_AWS_149:The key of Secrets Manager itself is enough for a first try; examples/complete uses a customer key.
  #checkov:skip=CKV2_AWS_57:Firebolt's service accounts have no rotation that Secrets Manager could drive.
  name        = "fair-dev/firebolt"
  description = "Firebolt service account: {\"client_id\": \"…\", \"client_secret\": \"…\"}"
}
