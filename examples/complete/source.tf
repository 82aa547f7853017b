# The bucket that DMS writes to, with EventBridge switched on by its owner.

resource "aws_s3_bucket" "source" {
  #checkov:skip=CKV_AWS_18:Left out to keep the example short.
  #checkov:skip=CKV_AWS_144:Left out to keep the example short.
  #checkov:skip=CKV_AWS_21:Left out to keep the example short; the pipeline tells versions apart by their etag.
  #checkov:skip=CKV2_AWS_61:Left out to keep the example short.
  bucket = var.source_bucket
}

resource "aws_s3_bucket_notification" "source" {
  bucket      = aws_s3_bucket.source.id
  eventbridge = true
}

resource "aws_s3_bucket_public_access_block" "source" {
  bucket = aws_s3_bucket.source.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "source" {
  bucket = aws_s3_bucket.source.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.cdc.arn
    }
  }
}
