output "functions" {
  description = "The three functions by role (loader, cleanup, migrate): name, ARN, alias ARN, newest version, the version that PROD points to, memory, role ARN and log group."
  value = {
    for key, function in { loader = module.loader, cleanup = module.cleanup, migrate = module.migrate } : key => {
      name                        = function.function_name
      arn                         = function.function_arn
      alias_arn                   = function.alias_arn
      newest_version              = function.version
      live_version                = function.live_version
      memory_mb                   = function.memory_mb
      role_arn                    = function.role_arn
      log_group                   = function.log_group_name
    }
  }
}

output "loader_function_name" {
  description = "Name of the loader, for `aws lambda invoke` and `aws logs tail`."
  value       = module.loader.function_name
}

output "cleanup_function_name" {
  description = "Name of the cleanup function."
  value       = module.cleanup.function_name
}

output "migrate_function_name" {
  description = "Name of the migrate function, for pipelines that run migrations themselves."
  value       = module.migrate.function_name
}

output "loader_role_arn" {
  description = "ARN of the loader's role, for the policies of buckets and keys in other accounts."
  value       = module.loader.role_arn
}

output "queue_url" {
  description = "URL of the queue between the rule and the loader."
  value       = module.intake.queue_url
}

output "queue_arn" {
  description = "ARN of the queue between the rule and the loader."
  value       = module.intake.queue_arn
}

output "dlq_url" {
  description = "URL of the dead letter queue for files that could not be loaded."
  value       = module.intake.dead_letter_queue_url
}

output "dlq_arn" {
  description = "ARN of the dead letter queue for files that could not be loaded."
  value       = module.intake.dead_letter_queue_arn
}

output "rule_dlq_url" {
  description = "URL of the dead letter queue for events that EventBridge could not deliver."
  value       = module.intake.rule_dead_letter_queue_url
}

output "rule_dlq_arn" {
  description = "ARN of the dead letter queue for events that EventBridge could not deliver."
  value       = module.intake.rule_dead_letter_queue_arn
}

output "rule_arn" {
  description = "ARN of the EventBridge rule."
  value       = module.intake.rule_arn
}

output "event_pattern" {
  description = "Event pattern of the rule, as JSON."
  value       = module.intake.event_pattern
}

output "schedule_rule_names" {
  description = "Names of the schedule rules, by task."
  value       = module.schedules.rule_names
}

output "module_bucket" {
  description = "Name of the module's own bucket for configuration, staged files and package. Firebolt's role reads its staging/ prefix: output `firebolt_s3_policy`."
  value       = module.storage.bucket
}

output "module_bucket_arn" {
  description = "ARN of the module's own bucket."
  value       = module.storage.bucket_arn
}

output "pipeline" {
  description = "Bucket and prefix of the source: the name under which this pipeline owns its target tables and ledger rows in Firebolt (column `pipeline`)."
  value       = "${var.source_bucket.name}/${var.source_bucket.prefix}"
}

output "tables" {
  description = "What was understood of each entry of `tables`: target, mode and primary key. Pass it on and read it in the plan: Terraform drops a misspelt attribute in silence, and a table without a primary key is appended to."
  value = {
    for key, table in local.config.tables : key => {
      target      = table.target
      mode        = table.mode
      primary_key = table.primary_key
    }
  }
}

output "package" {
  description = "The package that the newest functions run: bucket, key and version in S3, and its identity (the SHA-256 of a file, or the place of a `package_s3`)."
  value       = local.package
}

output "config" {
  description = "Where the configuration stands: bucket, key and the version that the newest functions read."
  value = {
    bucket     = aws_s3_object.config.bucket
    key        = aws_s3_object.config.key
    version_id = aws_s3_object.config.version_id
  }
}

output "config_json" {
  description = "The configuration as the functions read it. It holds no secret."
  value       = aws_s3_object.config.content
}

output "migration_result" {
  description = "What the migrate function answered, as JSON; null when migrations do not run on apply."
  value       = one(aws_lambda_invocation.migrate[*].result)
}

output "alarm_arns" {
  description = "ARN of each alarm, by its short name."
  value       = module.observability.alarm_arns
}

output "dashboard_name" {
  description = "Name of the dashboard, or null."
  value       = module.observability.dashboard_name
}

output "policies" {
  description = "What each function's role may do, as JSON."
  value = {
    loader  = module.loader.policy
    cleanup = module.cleanup.policy
    migrate = module.migrate.policy
  }
}

# The rights that Firebolt's guide "Use AWS roles to access Amazon S3" asks for, and kms:Decrypt where keys are named.
output "firebolt_s3_policy" {
  description = "What the role in firebolt.s3_role_arn needs, as a JSON policy: read and list the source prefix and the staged files, ask for the region of both buckets, decrypt with the keys that are named. Known before the module's resources exist, so that the role's policy may use it."
  value = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "ReadFiles"
          Effect   = "Allow"
          Action   = ["s3:GetObject", "s3:GetObjectVersion"]
          Resource = ["${local.source_bucket_arn}/${var.source_bucket.prefix}*", "${local.module_bucket_arn}/${local.staging_prefix}*"]
        },
        # Without a condition: the request for a bucket's region names no prefix.
        {
          Sid      = "LocateBuckets"
          Effect   = "Allow"
          Action   = ["s3:GetBucketLocation"]
          Resource = [local.source_bucket_arn, local.module_bucket_arn]
        },
        {
          Sid       = "ListSource"
          Effect    = "Allow"
          Action    = ["s3:ListBucket"]
          Resource  = [local.source_bucket_arn]
          Condition = { StringLike = { "s3:prefix" = ["${var.source_bucket.prefix}*"] } }
        },
        {
          Sid       = "ListStaging"
          Effect    = "Allow"
          Action    = ["s3:ListBucket"]
          Resource  = [local.module_bucket_arn]
          Condition = { StringLike = { "s3:prefix" = ["${local.staging_prefix}*"] } }
        },
      ],
      [for keys in [concat(var.source_bucket.kms_key_arns, [for encryption in [var.encryption] : encryption.kms_key_arn if encryption != null], local.former_kms_key_arns)] : {
        Sid       = "DecryptFiles"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = keys
        Condition = { StringEquals = { "kms:ViaService" = ["s3.${local.region}.${local.dns_suffix}"] } }
      } if length(keys) > 0],
    )
  })
}

output "kms_key_policy_statements" {
  description = "Statements, as a JSON list, that the policy of the key in `encryption` needs besides the account's own: for EventBridge, and for CloudWatch Logs, which uses the key only with `logs = true`. Known before the key exists, so that the key's policy may use it."
  value = jsonencode([
    {
      Sid       = "AllowEventBridge"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
      Condition = { ArnEquals = { "aws:SourceArn" = "arn:${local.partition}:events:${local.region}:${local.account}:rule/${var.name}-objects" } }
    },
    {
      Sid       = "AllowCloudWatchLogs"
      Effect    = "Allow"
      Principal = { Service = "logs.${local.region}.${local.dns_suffix}" }
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
      Resource  = "*"
      Condition = { ArnEquals = { "kms:EncryptionContext:aws:logs:arn" = [
        for function in ["cleanup", "loader", "migrate"] : "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws/lambda/${var.name}-${function}"
      ] } }
    },
  ])
}
