# The module's own bucket.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  bucket         = "fair-dev-123456789012-eu-west-1"
  force_destroy  = false
  staging_prefix = "staging/"
  package_prefix = "package/"
  encryption     = null
  enforce_tls    = true
  tags           = {}
}

run "defaults" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "Configurations are pinned by their version, so the bucket must keep versions."
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "Objects are encrypted without a customer key."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "Nothing in the bucket can be made public."
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.tls[0].policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    error_message = "Requests without TLS are denied."
  }

  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "The bucket is not destroyed with its contents unless somebody says so."
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.expiration[0].days if rule.id == "staged-files"]) == 1
    error_message = "Staged files live one day."
  }

  assert {
    condition     = length([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule if startswith("config/", try(rule.filter[0].prefix, "none"))]) == 0
    error_message = "No rule removes a configuration that an older version may need."
  }
}

run "customer_key" {
  module {
    source = "./modules/storage"
  }

  variables {
    encryption = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/module" }
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).kms_master_key_id == "arn:aws:kms:eu-west-1:123456789012:key/module"
    error_message = "Objects are encrypted with the customer key."
  }
}

run "emulator_without_tls" {
  module {
    source = "./modules/storage"
  }

  variables {
    enforce_tls = false
  }

  assert {
    condition     = length(aws_s3_bucket_policy.tls) == 0
    error_message = "enforce_tls = false leaves the policy out."
  }
}
