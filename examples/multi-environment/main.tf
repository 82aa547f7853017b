# One configuration, several environments: each has its own state, variables file and approval.
#
#   terraform init -backend-config=environments/dev.s3.tfbackend
#   terraform apply -var-file=environments/dev.tfvars
#
# A pipeline plans with -out on the pull request and applies that plan after approval. The package is
# built once and promoted by its S3 key, so that prod runs the bytes that were tested in dev.

terraform {
  backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { environment = var.environment }
  }
}

module "firebolt_cdc" {
  source = "../.."

  name                  = "fair-${var.environment}"
  source_bucket         = { name = var.source_bucket, prefix = "firebolt_dms_job/" }
  firebolt              = var.firebolt
  tables                = local.tables
  package_s3            = var.package_s3
  loader                = var.loader
  alarms                = { actions = var.alarm_topic_arns }
  deduplication_enabled = var.deduplication_enabled
  live_version          = var.live_version
}

locals {
  # The same tables everywhere; what differs between environments is in environments/*.tfvars.
  tables = {
    "fair/sessions" = { primary_key = ["sid"] }
    "fair/events"   = { mode = "append" }
  }
}
