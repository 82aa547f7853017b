environment   = "prod"
source_bucket = "fair-prod-dms"

firebolt = {
  account_name = "fair"
  engine_name  = "cdc_prod"
  database     = "fair_prod"
  secret_arn   = "arn:aws:secretsmanager:eu-west-1:222222222222:secret:fair-prod/firebolt-AbCdEf"
  s3_role_arn  = "arn:aws:iam::222222222222:role/fair-prod-firebolt"
}

package_s3 = {
  bucket = "fair-releases"
  key    = "firebolt-cdc/0.1.0/firebolt-cdc.zip"
}

loader = {
  memory_mb       = 3008
  max_concurrency = 20
}

alarm_topic_arns = ["arn:aws:sns:eu-west-1:222222222222:on-call"]
