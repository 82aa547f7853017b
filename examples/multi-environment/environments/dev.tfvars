environment   = "dev"
source_bucket = "fair-dev-dms"

firebolt = {
  account_name = "fair"
  engine_name  = "cdc_dev"
  database     = "fair_dev"
  secret_arn   = "arn:aws:secretsmanager:eu-west-1:111111111111:secret:fair-dev/firebolt-AbCdEf"
  s3_role_arn  = "arn:aws:iam::111111111111:role/fair-dev-firebolt"
}

package_s3 = {
  bucket = "fair-releases"
  key    = "firebolt-cdc/0.1.0/firebolt-cdc.zip"
}
