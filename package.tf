locals {
  package_prefix = "package/"
  package_path   = var.package_path == null ? "${path.module}/dist/firebolt-cdc.zip" : var.package_path
  package_sha256 = var.package_s3 == null && fileexists(local.package_path) ? filesha256(local.package_path) : "missing"

  package = var.package_s3 == null ? {
    bucket     = one(aws_s3_object.package[*].bucket)
    key        = one(aws_s3_object.package[*].key)
    version_id = null
    identity   = local.package_sha256
    } : {
    bucket     = var.package_s3.bucket
    key        = var.package_s3.key
    version_id = var.package_s3.version_id
    identity   = join("/", compact([var.package_s3.bucket, var.package_s3.key, var.package_s3.version_id]))
  }
}

# The key holds the hash: new bytes are a new object, the same bytes are no change, wherever the
# checkout stands.
resource "aws_s3_object" "package" {
  count = var.package_s3 == null ? 1 : 0

  bucket       = module.storage.bucket
  key          = "${local.package_prefix}firebolt-cdc-${local.package_sha256}.zip"
  source       = local.package_path
  content_type = "application/zip"

  override_provider {
    default_tags {
      tags = {}
    }
  }

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [source]

    precondition {
      condition     = fileexists(local.package_path)
      error_message = "There is no package at ${local.package_path}. Build it with `make package`, or name one with package_path or package_s3."
    }
  }
}
